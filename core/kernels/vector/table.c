/* table.c -- the functions of one variant, gathered. */
#include "kernels/vector/vec.h"

extern const moe_kernels KERNEL(kernels);
const moe_kernels KERNEL(kernels) = {
    .name = KERNEL_TEXT(MOE_ISA),
#define X(type, member) .member = KERNEL(member),
    MOE_KERNEL_TABLE(X)
#undef X
    .f32 = &KERNEL(f32),
#if !MOE_REAL_IS_DOUBLE
    .bf16 = &KERNEL(bf16),
#endif
};
