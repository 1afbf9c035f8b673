/* moe_ffn_few.h -- experts for the few tokens of a decoding step. */
#ifndef MOE_OPS_MOE_FFN_FEW_H
#define MOE_OPS_MOE_FFN_FEW_H

#include "tape/op.h"

/* Whether the op `moe_ffn` leaves this call to the function below: few tokens, no gradients. */
bool moe__is_few(const moe_call *c);
moe_status moe__ffn_few(moe_call *c);

#endif
