/* table.c -- the functions of one variant, gathered. */
#include "kernels/vector/vec.h"

#define TEXT_OF(isa) #isa
#define TEXT(isa) TEXT_OF(isa)
extern const moe_kernels KERNEL(kernels);
const moe_kernels KERNEL(kernels) = {
    .name = TEXT(MOE_ISA),
#define X(type, member) .member = KERNEL(member),
    MOE_KERNEL_TABLE(X)
#undef X
};
