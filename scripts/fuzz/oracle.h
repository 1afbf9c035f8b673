/* oracle.h -- what has to be true of a file that the reader took. */
#ifndef FUZZ_ORACLE_H
#define FUZZ_ORACLE_H

#include "checkpoint/safetensors.h"
#include "file.h"

/* Says what is wrong and aborts, so that a fuzzer keeps the input. */
_Noreturn void violation(const char *what);

/* The reader's table against the bytes themselves. */
void check_table(const moe_safetensors *f, const uint8_t *bytes, size_t size);
/* The reader's table against the description that the bytes were made from. */
void check_description(const moe_safetensors *f, const file *made);
/* Every tensor that has a number type and few elements, element by element. */
void check_elements(moe_ctx *ctx, moe_safetensors *f);

#endif
