/* registry.c -- the table of all ops, made by the build from the files in core/ops. */
#include "tape/op.h"

#define X(stem) extern const moe_op moe_op_##stem;
#include "ops.inc"
#undef X

const moe_op *const moe_ops[] = {
#define X(stem) &moe_op_##stem,
#include "ops.inc"
#undef X
};

const int moe_nops = (int)(sizeof moe_ops / sizeof *moe_ops);
