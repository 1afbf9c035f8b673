/* unicode.c -- code points, classes of characters, GPT-2's alphabet of bytes. */
#include "text/unicode.h"

#include <utf8proc.h>

/* ---- UTF-8 ---------------------------------------------------------------------------------- */

static bool is_tail(uint8_t byte) { return (byte & 0xC0) == 0x80; }

/* Bytes that the sequence has by its first byte, 0 for none, and what the second may be at least
 * and at most: this excludes overlong forms, surrogates and what lies behind U+10FFFF. */
static size_t length_of(uint8_t first, uint8_t *low, uint8_t *high) {
    *low = 0x80;
    *high = 0xBF;
    if (first < 0x80) return 1;
    if (first < 0xC2 || first > 0xF4) return 0;
    if (first < 0xE0) return 2;
    if (first == 0xE0) *low = 0xA0;
    if (first == 0xED) *high = 0x9F;
    if (first < 0xF0) return 3;
    if (first == 0xF0) *low = 0x90;
    if (first == 0xF4) *high = 0x8F;
    return 4;
}

/* How many bytes of the sequence at `p` are there and right; `*length` is how many there should
 * be, 0 when none begins here. */
static size_t valid_part(const uint8_t *p, const uint8_t *end, size_t *length) {
    uint8_t low, high;
    *length = length_of(*p, &low, &high);
    size_t n = 1;
    if (*length > 1 && p + 1 < end && p[1] >= low && p[1] <= high) n = 2;
    while (n > 1 && n < *length && p + n < end && is_tail(p[n])) n++;
    return n;
}

size_t moe__character(const uint8_t *p, const uint8_t *end, uint32_t *code) {
    static const uint8_t first_bits[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    size_t length;
    *code = MOE_NO_CHARACTER;
    if (valid_part(p, end, &length) != length) return 1;
    uint32_t value = (uint32_t)(*p & first_bits[length]);
    for (size_t i = 1; i < length; i++) value = value << 6 | (p[i] & 0x3F);
    *code = value;
    return length;
}

const uint8_t *moe__character_before(const uint8_t *begin, const uint8_t *p) {
    for (ptrdiff_t n = 1; n <= 4 && n <= p - begin; n++) {
        uint32_t code;
        if (!is_tail(p[-n]) && moe__character(p - n, p, &code) == (size_t)n) return p - n;
    }
    return p - 1;
}

size_t moe__put_character(uint32_t code, char out[4]) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)code, (utf8proc_uint8_t *)out);
}

moe_status moe__replace_invalid(const char *text, size_t size, moe_buffer *out) {
    const uint8_t *p = (const uint8_t *)text, *end = p + size, *good = p;
    moe_status status = MOE_OK;
    while (p < end && status == MOE_OK) {
        size_t length, n = valid_part(p, end, &length);
        if (n != length) {
            status = moe__buffer_add(out, good, (size_t)(p - good));
            if (status == MOE_OK) status = moe__buffer_add(out, "\xEF\xBF\xBD", 3);
            good = p + n;
        }
        p += n;
    }
    if (status != MOE_OK) return status;
    return moe__buffer_add(out, good, (size_t)(end - good));
}

/* ---- classes -------------------------------------------------------------------------------- */

static bool is_space(uint32_t code) {
    if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
    return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
           code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

moe_class moe__class(uint32_t code) {
    if (code == MOE_NO_CHARACTER) return MOE_OTHER;
    switch (utf8proc_category((utf8proc_int32_t)code)) {
        case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT:
        case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO:
            return MOE_LETTER;
        case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_NO:
            return MOE_NUMBER;
        default:
            return is_space(code) ? MOE_SPACE : MOE_OTHER;
    }
}

/* Letters that are symbols by category: circled and squared ones. */
static bool is_alphabetic_symbol(uint32_t code) {
    return (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
           (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
}

bool moe__is_word(uint32_t code) {
    if (code == MOE_NO_CHARACTER) return false;
    switch (utf8proc_category((utf8proc_int32_t)code)) {
        case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT:
        case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN:
        case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_ND:
        case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC:
            return true;
        default:
            return code == 0x200C || code == 0x200D || is_alphabetic_symbol(code);
    }
}

/* ---- the alphabet of bytes ------------------------------------------------------------------ */

/* The bytes that do not stand for themselves: 0x00 to 0x20, 0x7F to 0xA0, and 0xAD. */
uint32_t moe__byte_symbol(uint8_t byte) {
    if (byte <= 0x20) return 0x100u + byte;
    if (byte >= 0x7F && byte <= 0xA0) return 0x121u + byte - 0x7Fu;
    return byte == 0xAD ? 0x143u : byte;
}

int moe__symbol_byte(uint32_t code) {
    if (code >= 0x100 && code <= 0x120) return (int)(code - 0x100);
    if (code >= 0x121 && code <= 0x142) return (int)(code - 0x121 + 0x7F);
    if (code == 0x143) return 0xAD;
    bool itself = (code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD);
    return itself ? (int)code : -1;
}
