#include "ops/few.h"

#include "kernels/kernels.h"

#define TASK_BYTES (64 << 10)       /* of a weight: some microseconds of reading */

int64_t moe__few_rows(const moe_few *f) {
    int64_t row = f->k * (int64_t)moe__dtype_size(f->type);
    return row < TASK_BYTES ? TASK_BYTES / (row > 0 ? row : 1) : 1;
}

int64_t moe__few_tasks(const moe_few *f) {
    int64_t rows = moe__few_rows(f);
    return f->m > 0 ? (f->n + rows - 1) / rows : 0;
}

typedef struct batch {
    const moe_kernels *kernels;
    const moe_few *list;
} batch;

void moe__few_multiply(const moe_kernels *kernels, const moe_few *f, int64_t task) {
    int64_t rows = moe__few_rows(f), first = task * rows;
    int64_t n = f->n - first < rows ? f->n - first : rows;
    const char *w = (const char *)f->w + (size_t)(first * f->k) * moe__dtype_size(f->type);
    moe__gemv(kernels, f->type)(&(moe_gemv){.m = f->m, .n = n, .k = f->k, .x = f->x, .ldx = f->k,
                                            .w = w, .ldw = f->k, .y = f->y + first, .ldy = f->n});
}

static void task(void *arg, int64_t task, int worker) {
    const batch *b = arg;
    const moe_few *f = b->list;
    (void)worker;
    for (int64_t tasks; task >= (tasks = moe__few_tasks(f)); f++) task -= tasks;
    moe__few_multiply(b->kernels, f, task);
}

void moe__few_products(moe_ctx *ctx, int64_t count, const moe_few *list) {
    int64_t tasks = 0;
    for (int64_t i = 0; i < count; i++) tasks += moe__few_tasks(&list[i]);
    moe__parallel(ctx, tasks, task, &(batch){.kernels = ctx->kernels, .list = list});
}
