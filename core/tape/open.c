/* open.c -- a context is base, kernels and tape together; only here all three are known. */
#include "kernels/kernels.h"
#include "tape/tape.h"

moe_status moe_open(moe_ctx **out, const moe_config *cfg) {
    moe_status s = moe__ctx_open(out, cfg);
    if (s) return s;
    const char *wanted = cfg && cfg->size >= sizeof *cfg ? cfg->kernels : NULL;
    (*out)->kernels = moe__kernels_select(wanted);
    (*out)->release_node = moe__node_release;
    if ((*out)->kernels) {
        (*out)->format = (*out)->kernels->f32;
        return MOE_OK;
    }
    moe_close(*out);
    *out = NULL;
    return MOE_EARG;
}

const char *moe_kernels_name(const moe_ctx *ctx) { return ctx->kernels->name; }
