/* source.h -- where numbers lie: a run of elements of a stored tensor, or rows gathered from it.
 *
 * An expert in a fused stack is a run; a head whose rows another format permutes, or a vocabulary
 * that other models share, is a gather. Sources are read in pieces, straight from the mapped file.
 */
#ifndef MOE_CHECKPOINT_SOURCE_H
#define MOE_CHECKPOINT_SOURCE_H

#include "checkpoint/stored.h"
#include "kernels/kernels.h"

typedef struct moe_source moe_source;
struct moe_source {
    moe_stored type;
    const char *data;           /* of the stored tensor */
    uint64_t first;             /* the element of it at which this source begins */
    int64_t count, width;       /* elements of the source, and of one of its rows */
    const int32_t *rows;        /* row i is row rows[i] counted from `first`, -1 is a row of zeros;
                                   NULL: the elements lie one after the other */
    const int32_t *from;        /* row i is that of others[from[i] - 1] when from[i] > 0; or NULL */
    const moe_source *others;   /* of the same count and width, without others of their own */
};

/* Elements first .. first + n - 1 of a source of floats, on the calling thread. */
void moe__source_read(const moe_kernels *k, const moe_source *s, int64_t first, int64_t n,
                      float *out);

/* Asks for elements that will be read soon: a piece is too short for the processor to see that it
 * goes on. */
void moe__source_prefetch(const moe_source *s, int64_t first, int64_t n);

/* Asks the system for elements that will be read in a while, where they are not in memory yet. */
void moe__source_expect(const moe_source *s, int64_t first, int64_t n);

/* Whether all of its elements are stored in this type, which has whole bytes. */
bool moe__source_is(const moe_source *s, int64_t others, moe_stored type);
/* The bytes of rows first .. first + n - 1 of such a source. */
void moe__source_copy(const moe_source *s, int64_t first, int64_t n, char *out);

/* Where the elements lie when they lie one after the other; NULL when they do not. */
const char *moe__source_run(const moe_source *s);

#endif
