/* expert.c -- between the two products of an expert: strips of MOE_PANEL hidden columns. */
#include "kernels/vector/activation.h"

/* What an activation f gives is compiled for each f by itself. */
INLINE curve curve_at(moe_activation f, vec x) {
    return f == MOE_RELU ? relu_at(x) : f == MOE_GELU ? gelu_at(x) : silu_at(x);
}

INLINE void activate(moe_activation f, int64_t rows, const moe_real *g, const moe_real *u,
                     moe_real *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++, y += ldy)
        for (int j = 0; j < MOE_PANEL; j += VL) {
            int64_t at = i * MOE_PANEL + j;
            vec up = f == MOE_SWIGLU ? load(u + at) : splat(1);
            store(y + j, curve_at(f, load(g + at)).y * up);
        }
}

void KERNEL(expert)(moe_activation f, int64_t rows, const moe_real *g, const moe_real *u,
                    moe_real *y, int64_t ldy) {
    switch (f) {
    case MOE_SWIGLU: activate(MOE_SWIGLU, rows, g, u, y, ldy); break;
    case MOE_RELU: activate(MOE_RELU, rows, g, u, y, ldy); break;
    case MOE_GELU: activate(MOE_GELU, rows, g, u, y, ldy); break;
    case MOE_SILU: activate(MOE_SILU, rows, g, u, y, ldy); break;
    }
}

INLINE void go_back(moe_activation f, int64_t rows, const moe_expert_strip *s) {
    for (int64_t i = 0; i < rows; i++) {
        const moe_real scale = s->scale[i];
        const int64_t from = i * MOE_PANEL, to = i * s->ld;
        vec sum = {0};
        for (int j = 0; j < MOE_PANEL; j += VL) {
            vec u = f == MOE_SWIGLU ? load(s->u + from + j) : splat(1);
            vec dy = load(s->dy + from + j);
            curve a = curve_at(f, load(s->g + from + j));
            vec y = a.y * u;
            sum += dy * y;
            dy *= scale;
            store(s->y + from + j, y);
            if (f == MOE_SWIGLU) store(s->du + to + j, dy * a.y);
            store(s->dg + to + j, dy * u * a.slope);
        }
        s->dscale[i] += lanes_sum(sum);
    }
}

void KERNEL(expert_grad)(moe_activation f, int64_t rows, const moe_expert_strip *s) {
    switch (f) {
    case MOE_SWIGLU: go_back(MOE_SWIGLU, rows, s); break;
    case MOE_RELU: go_back(MOE_RELU, rows, s); break;
    case MOE_GELU: go_back(MOE_GELU, rows, s); break;
    case MOE_SILU: go_back(MOE_SILU, rows, s); break;
    }
}
