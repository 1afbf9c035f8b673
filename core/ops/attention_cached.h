/* attention_cached.h -- attention with the keys and values of a cache. */
#ifndef MOE_OPS_ATTENTION_CACHED_H
#define MOE_OPS_ATTENTION_CACHED_H

#include "tape/op.h"

/* Whether the op `attention` leaves this call to the function below: keys in 16 bits, lengths, or
 * few queries whose gradient nobody asks for. */
bool moe__is_cached(const moe_call *c);
/* What infer has to check about them; then the forward of `attention`. */
moe_status moe__attention_cached_infer(moe_call *c);
moe_status moe__attention_cached(moe_call *c);

#endif
