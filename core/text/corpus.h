/* corpus.h -- the documents of a token file, and the windows that training and evaluation read.
 *
 * The documents of a split, in file order, form one stream of tokens. A window is context + 1
 * tokens of it: the inputs, and the same shifted by one as targets.
 *
 * Training draws. The windows of epoch e are the consecutive ones that begin at a random phase,
 * taken in a random order; both depend on (seed, stream, e) alone. Draw k is window
 * order_e(k mod windows per epoch) with e = k / windows per epoch: nothing has to be remembered to
 * continue at any k. The order is a Feistel network over the window's number, walked until it
 * falls into range, so that no table is needed either. The members of a batch lie in one epoch and
 * therefore never share an input: a batch that would straddle two begins with the next one.
 *
 * Where a model mixes sequences, one member of a batch must not hold what another is to predict:
 * the next token of a window may be the first input of the window behind it. Such batches are drawn
 * apart: of so many successive members no two touch the same document with any of their tokens,
 * targets included, so that windows that overlap or adjoin are apart as well. A draw that is too
 * near is skipped, and its window is left out of this epoch.
 *
 * Evaluation reads non-overlapping windows in order.
 */
#ifndef MOE_TEXT_CORPUS_H
#define MOE_TEXT_CORPUS_H

#include "checkpoint/safetensors.h"
#include "text/documents.h"

/* The documents of one split. */
typedef struct moe_part {
    int64_t documents, tokens;
    int64_t *at;            /* where each document begins in the stream, and where the last ends */
    int64_t *from;          /* where each document begins in the file */
} moe_part;

typedef struct moe_corpus {
    moe_ctx *ctx;
    moe_safetensors *file;  /* holds `ids` */
    const char *ids;        /* little-endian, not necessarily aligned */
    const char *lengths;    /* bytes of text that each id stands for, I32 [vocab]; NULL: one each */
    int width;              /* bytes of an id: 2 or 4 */
    int64_t tokens, documents, vocab;
    moe_part part[MOE_SPLITS];
} moe_corpus;

/* The parts of a token file; nothing has been checked but their sizes. */
typedef struct moe_token_file {
    moe_safetensors *file;
    const char *ids, *docs, *split, *lengths;
    int width;
    int64_t tokens, documents, vocab;       /* docs: documents + 1 offsets; split: one byte each */
} moe_token_file;

/* Sorts the documents of a token file by split; the corpus then owns the file, which stays the
 * caller's after a failure. MOE_EFORMAT when offsets or splits make no sense, MOE_ENOMEM. */
moe_status moe__corpus_new(moe_ctx *ctx, const moe_token_file *file, const char *path,
                           moe_corpus **out);
void moe__corpus_free(moe_corpus *corpus);

/* "test", "validation", "train". */
const char *moe__split_name(int split);

/* The document, from 0, that holds token `at` of a split's stream: the last one that does not begin
 * after it. */
int64_t moe__corpus_document(const moe_corpus *corpus, int split, int64_t at);

/* Tokens first .. first+n-1 of a split's stream. The range must exist. MOE_EFORMAT for an id that
 * is not below the size of the vocabulary. */
moe_status moe__corpus_read(const moe_corpus *corpus, int split, int64_t first, int64_t n,
                            int32_t *out);

typedef struct moe_draw {
    int split;
    int64_t batch, context;
    int64_t apart;          /* of so many successive members no two share a document; 1: any may */
    uint64_t seed, stream;
    int64_t first;          /* number of the batch's first draw, from 0 */
} moe_draw;

/* Windows that an epoch draws from; 0 when the split is shorter than context + 1. */
int64_t moe__corpus_epoch(const moe_corpus *corpus, int split, int64_t context);

/* Where the window of draw k begins in the stream of its split. */
int64_t moe__corpus_window(const moe_corpus *corpus, const moe_draw *draw, int64_t k);

/* Can such a batch be filled? MOE_EARG with both numbers when the split is too short, or has too
 * few documents. */
moe_status moe__corpus_can_draw(const moe_corpus *corpus, const moe_draw *draw);

/* Fills x and y, [batch x context] each, and tells the number of the draw after the batch. The
 * draw must have passed moe__corpus_can_draw. MOE_ENOMEM; MOE_EARG when no order of several epochs
 * had enough windows apart. */
moe_status moe__corpus_batch(const moe_corpus *corpus, const moe_draw *draw, int32_t *x,
                             int32_t *y, int64_t *next);

/* How many windows an evaluation reads. All of them cover the split, the last one partly; with a
 * limit below that they are whole and evenly spaced. limit < 0 means none. */
int64_t moe__corpus_windows(const moe_corpus *corpus, int split, int64_t context, int64_t limit);

/* Windows first .. first+n-1 of those; x and y are [n x context]. Behind the end of the split, x
 * is 0 and y is -1. */
moe_status moe__corpus_evaluation(const moe_corpus *corpus, int split, int64_t context,
                                  int64_t limit, int64_t first, int64_t n, int32_t *x, int32_t *y);

/* The first and the last document that window `i` of those touches. */
void moe__corpus_evaluation_documents(const moe_corpus *corpus, int split, int64_t context,
                                      int64_t limit, int64_t i, int64_t *first, int64_t *last);

/* How many bytes of text these ids stand for; those below 0 mark padding and stand for none.
 * MOE_EFORMAT for an id that is not below the size of the vocabulary. */
moe_status moe__corpus_bytes(const moe_corpus *corpus, const int32_t *ids, int64_t n,
                             int64_t *bytes);

/* Lines of the test split of more than `longer` tokens, and how many of them the train split holds
 * as well. Lines end with the token `newline` or their document. MOE_ENOMEM. */
moe_status moe__corpus_shared_lines(const moe_corpus *corpus, uint32_t newline, int64_t longer,
                                    int64_t *lines, int64_t *shared);

/* Opens a token file: safetensors with ids (U16 or U32, [tokens]), docs (I64, [documents + 1]) and
 * split (U8, [documents]), and the size of the vocabulary in the metadata; and, unless each id is a
 * byte, lengths (I32, [vocab]).
 * MOE_EMISSING, MOE_EIO, MOE_EFORMAT, MOE_ENOMEM. */
moe_status moe__corpus_open(moe_ctx *ctx, const char *path, moe_corpus **out);

#endif
