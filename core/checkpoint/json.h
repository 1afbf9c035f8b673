/* json.h -- a strict reader for the JSON header of a model file.
 *
 * The header comes from strangers, so the reader holds itself back: it works in one pass over a
 * private copy, needs no memory of its own, bounds the nesting of what it skips and accepts
 * exactly RFC 8259. Strings are unescaped in place (they never grow), so a slice that it returns
 * is part of the copy and lives as long.
 *
 *     moe_json j = moe__json_open(text, size);
 *     moe_slice key;
 *     moe__json_object(&j);
 *     while (moe__json_key(&j, &key)) moe__json_skip(&j);      // one value after each key
 *     if (!moe__json_end(&j)) puts(j.error);
 *
 * The first error sticks: every later call returns false, and loops end by themselves.
 */
#ifndef MOE_CHECKPOINT_JSON_H
#define MOE_CHECKPOINT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text that may hold any byte, NUL included. */
typedef struct moe_slice {
    const char *data;
    size_t size;
} moe_slice;

/* Order of bytes, the shorter first when one begins the other; negative, 0 or positive. */
int moe__slice_compare(moe_slice a, moe_slice b);

typedef struct moe_json {
    char *begin, *at, *end;
    bool fresh;             /* a container was just opened: no comma yet */
    const char *error;      /* what is wrong at `at`; NULL while all is well */
} moe_json;

moe_json moe__json_open(char *text, size_t size);

/* Enter a value that must be an object or an array. */
bool moe__json_object(moe_json *j);
bool moe__json_array(moe_json *j);

/* Moves to the next member or element: false when the container has ended (and is left). */
bool moe__json_key(moe_json *j, moe_slice *key);
bool moe__json_next(moe_json *j);

/* Take a value that must be a string, or an integer from 0 to 2^64-1 without sign, fraction and
 * exponent; or any value at all. */
bool moe__json_string(moe_json *j, moe_slice *out);
bool moe__json_unsigned(moe_json *j, uint64_t *out);
bool moe__json_skip(moe_json *j);

/* True when nothing but white space follows the value and there was no error. */
bool moe__json_end(moe_json *j);

/* Records an error of the caller's at the present place; false. */
bool moe__json_fail(moe_json *j, const char *error);

/* Offset of the first byte that is no UTF-8 (overlong forms and surrogates are none), or `size`. */
size_t moe__utf8_valid(const char *text, size_t size);

#endif
