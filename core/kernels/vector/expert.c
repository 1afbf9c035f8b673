/* expert.c -- between the two products of an expert: strips of MOE_PANEL hidden columns. */
#include "kernels/vector/vec.h"

void KERNEL(expert)(int64_t rows, const moe_real *g, const moe_real *u, moe_real *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++, g += MOE_PANEL, u += MOE_PANEL, y += ldy)
        for (int j = 0; j < MOE_PANEL; j += VL) {
            vec gate = load(g + j);
            store(y + j, gate * load(u + j) * vsigmoid(gate));
        }
}

void KERNEL(expert_grad)(int64_t rows, const moe_expert_strip *s) {
    for (int64_t i = 0; i < rows; i++) {
        const moe_real scale = s->scale[i];
        const int64_t from = i * MOE_PANEL, to = i * s->ld;
        vec sum = {0};
        for (int j = 0; j < MOE_PANEL; j += VL) {
            vec g = load(s->g + from + j), u = load(s->u + from + j), dy = load(s->dy + from + j);
            vec sigmoid = vsigmoid(g), silu = g * sigmoid, y = silu * u;
            sum += dy * y;
            dy *= scale;
            store(s->y + from + j, y);
            store(s->du + to + j, dy * silu);
            store(s->dg + to + j, dy * u * (sigmoid + silu * (1 - sigmoid)));
        }
        s->dscale[i] += lanes_sum(sum);
    }
}
