/* gguf_oracle.h -- what has to be true of a GGUF file that the reader took. */
#ifndef FUZZ_GGUF_ORACLE_H
#define FUZZ_GGUF_ORACLE_H

#include "checkpoint/gguf.h"

/* Says what is wrong and aborts, so that a fuzzer keeps the input. */
_Noreturn void violation(const char *what);

/* The reader's tables against what the oracle reads in the same bytes. */
void check_tables(const moe_gguf *f, const uint8_t *bytes, size_t size);
/* Two files hold the same. */
void check_equal(const moe_gguf *a, const moe_gguf *b);
/* Every tensor as numbers, those of plain types one by one. */
void check_elements(moe_ctx *ctx, const moe_gguf *f);

#endif
