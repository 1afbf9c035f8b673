/* normal_form.h -- the four normal forms of Unicode, on text that may be no UTF-8. */
#ifndef MOE_TEXT_NORMAL_FORM_H
#define MOE_TEXT_NORMAL_FORM_H

#include <stdbool.h>

#include "text/buffer.h"

/* Appends the text in normal form C or D (`compose`), with compatible characters replaced (KC, KD)
 * if `compatible`. Bytes that are no UTF-8 stay where they are. */
moe_status moe__normal_form(const char *text, size_t size, bool compose, bool compatible,
                            moe_buffer *scratch, moe_buffer *out);

/* No normal form changes a text of ASCII alone. */
bool moe__is_ascii(const char *text, size_t size);

#endif
