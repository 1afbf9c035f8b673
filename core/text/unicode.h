/* unicode.h -- code points of text that may be no UTF-8, and what kind of characters they are.
 *
 * A byte that begins no valid sequence (overlong forms and surrogates are none) is a character of
 * its own: neither letter nor number nor white space.
 */
#ifndef MOE_TEXT_UNICODE_H
#define MOE_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/buffer.h"

#define MOE_NO_CHARACTER UINT32_MAX     /* the "code point" of an invalid byte */

typedef enum moe_class { MOE_OTHER, MOE_LETTER, MOE_NUMBER, MOE_SPACE } moe_class;

/* Takes the character at `p` < `end`: returns how many bytes it has. */
size_t moe__character(const uint8_t *p, const uint8_t *end, uint32_t *code);
/* Where the character begins that ends at `p` > `begin`. */
const uint8_t *moe__character_before(const uint8_t *begin, const uint8_t *p);
/* Writes the code point, which must be valid, as UTF-8: 1 to 4 bytes. */
size_t moe__put_character(uint32_t code, char out[4]);

/* General categories L* and N*, and the property White_Space. */
moe_class moe__class(uint32_t code);
/* What regular expressions call \w. */
bool moe__is_word(uint32_t code);

/* Copies the text with each maximal part of an invalid sequence replaced by U+FFFD. */
moe_status moe__replace_invalid(const char *text, size_t size, moe_buffer *out);

/* GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards. */
uint32_t moe__byte_symbol(uint8_t byte);
/* The byte that the code point stands for, or -1. */
int moe__symbol_byte(uint32_t code);

#endif
