/* utf8.h -- what the oracles think of a text. */
#ifndef FUZZ_UTF8_H
#define FUZZ_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes, and asks of each code point whether this is its shortest form. */
static inline bool is_utf8(const char *data, size_t size) {
    for (size_t i = 0; i < size;) {
        unsigned c = (unsigned char)data[i++];
        unsigned tail = c < 0x80 ? 0 : c >> 5 == 6 ? 1 : c >> 4 == 14 ? 2 : c >> 3 == 30 ? 3 : 9;
        if (tail == 9 || tail > size - i) return false;
        uint32_t code = tail ? c & (0x3fu >> tail) : c;
        for (unsigned k = 0; k < tail; k++) {
            unsigned next = (unsigned char)data[i++];
            if (next >> 6 != 2) return false;
            code = code << 6 | (next & 63);
        }
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (code < least[tail] || code > 0x10ffff) return false;
        if (code >= 0xd800 && code < 0xe000) return false;
    }
    return true;
}

#endif
