/* rng.h -- Philox4x32-10 (Salmon et al. 2011): numbers by position, not by history.
 *
 * key = seed, counter = (stream, block). The n-th number of a stream depends on nothing else, so
 * results are the same for any thread count, chunking or platform. Normals come from our own log
 * and sine, because libm's differ between versions. A stream's name becomes a number through
 * moe__stream().
 */
#ifndef MOE_BASE_RNG_H
#define MOE_BASE_RNG_H

#include "moe.h"

uint64_t moe__stream(const char *name);

/* Four 32-bit numbers: block `block` of `stream`. */
void moe__philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[4]);

/* Numbers first .. first+n-1 of the stream: uniform in [0, 1) with 24 bits (53 in double), and
 * standard normal. */
void moe__uniform(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, moe_real *out);
void moe__normal(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, moe_real *out);

/* One number in 0 .. bound-1, number `index` of the stream. */
uint64_t moe__below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);

#endif
