#include "checkpoint/json.h"

#include <string.h>

/* Nesting of a value that is skipped; as deep as the reference reader goes. */
#define MAX_DEPTH 128

int moe__slice_compare(moe_slice a, moe_slice b) {
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common ? memcmp(a.data, b.data, common) : 0;
    if (order) return order;
    return a.size < b.size ? -1 : a.size > b.size;
}

moe_json moe__json_open(char *text, size_t size) {
    return (moe_json){.begin = text, .at = text, .end = text + size};
}

bool moe__json_fail(moe_json *j, const char *error) {
    if (!j->error) j->error = error;
    return false;
}

/* The next byte that is no white space, not taken; -1 at the end. */
static int peek(moe_json *j) {
    while (j->at < j->end) {
        char c = *j->at;
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return (unsigned char)c;
        j->at++;
    }
    return -1;
}

static bool enter(moe_json *j, char bracket, const char *error) {
    if (j->error) return false;
    if (peek(j) != bracket) return moe__json_fail(j, error);
    j->at++;
    j->fresh = true;
    return true;
}

bool moe__json_object(moe_json *j) { return enter(j, '{', "expected an object"); }
bool moe__json_array(moe_json *j) { return enter(j, '[', "expected an array"); }

/* Takes the comma before a further item, or the bracket that ends the container. */
static bool more(moe_json *j, char bracket, const char *error) {
    if (j->error) return false;
    int c = peek(j);
    bool first = j->fresh;
    j->fresh = false;
    if (c == bracket) {
        j->at++;
        return false;
    }
    if (first) return true;
    if (c != ',') return moe__json_fail(j, error);
    j->at++;
    return true;
}

bool moe__json_next(moe_json *j) { return more(j, ']', "expected `,` or `]`"); }

bool moe__json_key(moe_json *j, moe_slice *key) {
    if (!more(j, '}', "expected `,` or `}`") || !moe__json_string(j, key)) return false;
    if (peek(j) != ':') return moe__json_fail(j, "expected `:`");
    j->at++;
    return true;
}

bool moe__json_end(moe_json *j) {
    if (j->error) return false;
    return peek(j) < 0 || moe__json_fail(j, "something follows the value");
}

/* --- strings --------------------------------------------------------------------------------- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The four digits after `\u`. */
static bool hex4(moe_json *j, uint32_t *out) {
    if (j->end - j->at < 4) return moe__json_fail(j, "an escape is cut off");
    *out = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(j->at[i]);
        if (digit < 0) return moe__json_fail(j, "expected four hexadecimal digits");
        *out = *out << 4 | (uint32_t)digit;
    }
    j->at += 4;
    return true;
}

static char *put_utf8(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
        return to;
    }
    int tail = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    *to++ = (char)(lead[tail] | code >> (6 * tail));
    while (tail-- > 0) *to++ = (char)(0x80 | (code >> (6 * tail) & 0x3f));
    return to;
}

/* A code point after `\u`; those above 0xffff are written as a pair of surrogates. */
static bool unicode(moe_json *j, char **to) {
    uint32_t code, low;
    if (!hex4(j, &code)) return false;
    if (code >= 0xdc00 && code <= 0xdfff) return moe__json_fail(j, "a lone surrogate");
    if (code >= 0xd800 && code <= 0xdbff) {
        if (j->end - j->at < 2 || j->at[0] != '\\' || j->at[1] != 'u')
            return moe__json_fail(j, "a lone surrogate");
        j->at += 2;
        if (!hex4(j, &low)) return false;
        if (low < 0xdc00 || low > 0xdfff) return moe__json_fail(j, "a lone surrogate");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    *to = put_utf8(*to, code);
    return true;
}

static bool escape(moe_json *j, char **to) {
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    if (j->end - j->at < 2) return moe__json_fail(j, "an escape is cut off");
    char c = j->at[1];
    if (c == 'u') {
        j->at += 2;
        return unicode(j, to);
    }
    const char *found = c ? strchr(from, c) : NULL;
    if (!found) return moe__json_fail(j, "an unknown escape");
    j->at += 2;
    *(*to)++ = into[found - from];
    return true;
}

bool moe__json_string(moe_json *j, moe_slice *out) {
    if (j->error) return false;
    if (peek(j) != '"') return moe__json_fail(j, "expected a string");
    char *first = ++j->at, *to = first;
    while (j->at < j->end && *j->at != '"') {
        if ((unsigned char)*j->at < 0x20)
            return moe__json_fail(j, "a control character in a string");
        if (*j->at == '\\') {
            if (!escape(j, &to)) return false;
        } else
            *to++ = *j->at++;
    }
    if (j->at == j->end) return moe__json_fail(j, "a string does not end");
    j->at++;
    *out = (moe_slice){first, (size_t)(to - first)};
    return true;
}

/* --- other values ---------------------------------------------------------------------------- */

static bool is_digit(const moe_json *j) {
    return j->at < j->end && *j->at >= '0' && *j->at <= '9';
}

static bool is_one_of(const moe_json *j, const char *set) {
    return j->at < j->end && *j->at && strchr(set, *j->at);
}

bool moe__json_unsigned(moe_json *j, uint64_t *out) {
    if (j->error) return false;
    peek(j);
    if (!is_digit(j)) return moe__json_fail(j, "expected an integer that is not negative");
    const char *first = j->at;
    uint64_t value = 0;
    for (; is_digit(j); j->at++)
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*j->at - '0'), &value))
            return moe__json_fail(j, "an integer is too large");
    if (*first == '0' && j->at - first > 1) return moe__json_fail(j, "a number begins with 0");
    if (is_one_of(j, ".eE")) return moe__json_fail(j, "expected an integer");
    *out = value;
    return true;
}

static bool digits(moe_json *j) {
    if (!is_digit(j)) return moe__json_fail(j, "expected a digit");
    while (is_digit(j)) j->at++;
    return true;
}

static bool number(moe_json *j) {
    if (*j->at == '-') j->at++;
    if (j->at < j->end && *j->at == '0') {
        j->at++;
        if (is_digit(j)) return moe__json_fail(j, "a number begins with 0");
    } else if (!digits(j))
        return false;
    if (is_one_of(j, ".")) {
        j->at++;
        if (!digits(j)) return false;
    }
    if (is_one_of(j, "eE")) {
        j->at++;
        if (is_one_of(j, "+-")) j->at++;
        if (!digits(j)) return false;
    }
    return true;
}

static bool word(moe_json *j, const char *expected) {
    size_t size = strlen(expected);
    if ((size_t)(j->end - j->at) < size || memcmp(j->at, expected, size) != 0)
        return moe__json_fail(j, "expected a value");
    j->at += size;
    return true;
}

static bool scalar(moe_json *j, int first) {
    moe_slice ignored;
    switch (first) {
        case '"': return moe__json_string(j, &ignored);
        case 't': return word(j, "true");
        case 'f': return word(j, "false");
        case 'n': return word(j, "null");
        default: break;
    }
    if (first == '-' || (first >= '0' && first <= '9')) return number(j);
    return moe__json_fail(j, "expected a value");
}

/* Keeps the open brackets in an array of its own: deep nesting must not use up the C stack. */
bool moe__json_skip(moe_json *j) {
    char open[MAX_DEPTH];
    int depth = 0;
    moe_slice ignored;
    if (j->error) return false;
    do {
        int c = peek(j);
        if (c == '{' || c == '[') {
            if (depth == MAX_DEPTH) return moe__json_fail(j, "nested too deeply");
            open[depth++] = (char)c;
            j->at++;
            j->fresh = true;
        } else if (!scalar(j, c))
            return false;
        while (depth > 0 &&
               !(open[depth - 1] == '{' ? moe__json_key(j, &ignored) : moe__json_next(j))) {
            if (j->error) return false;
            depth--;
        }
    } while (depth > 0);
    return true;
}

/* --- UTF-8 ----------------------------------------------------------------------------------- */

/* Bytes of the sequence that begins at p; 0 when it is none. The second byte's range excludes
 * overlong forms, surrogates and what lies beyond U+10FFFF (Unicode 15, table 3-7). */
static size_t sequence(const unsigned char *p, size_t left) {
    unsigned char lead = p[0], low = 0x80, high = 0xbf;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    size_t size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (left < size) return 0;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    if (p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < size; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return size;
}

size_t moe__utf8_valid(const char *text, size_t size) {
    size_t i = 0;
    while (i < size) {
        uint64_t eight = UINT64_MAX;
        if (size - i >= 8) memcpy(&eight, text + i, 8);
        if (!(eight & 0x8080808080808080u)) {
            i += 8;
            continue;
        }
        size_t step = sequence((const unsigned char *)text + i, size - i);
        if (!step) return i;
        i += step;
    }
    return i;
}
