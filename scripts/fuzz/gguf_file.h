/* gguf_file.h -- a GGUF file that is made up, and what has to become of it: as in file.h, it is
 * described first, at most one fault is put into it, and then it is written.
 */
#ifndef FUZZ_GGUF_FILE_H
#define FUZZ_GGUF_FILE_H

#include "source.h"

#define MAX_TENSORS 24
#define MAX_PAIRS 12
#define MAX_NAME 80
#define MAX_VALUE 160
#define MAX_BYTES (1 << 17)

typedef unsigned __int128 wide;

typedef enum verdict { MUST_LOAD, MUST_FAIL, MAY_DO_EITHER } verdict;

typedef struct label {
    char data[MAX_NAME];
    uint64_t size;          /* as it is written, which a fault may make larger than the data */
    size_t used;
} label;

typedef struct pair {
    label key;
    uint32_t type, element;     /* element: of an array, whose type is 9 */
    uint64_t count;
    uint8_t value[MAX_VALUE];   /* without the head of an array */
    size_t size;
} pair;

typedef struct tensor {
    label name;
    uint32_t type, rank;
    uint64_t size[6];           /* densest first */
    uint64_t data_size, offset;
} tensor;

typedef struct file {
    source *s;
    verdict verdict;
    const char *fault;          /* its name; NULL = none */
    uint32_t magic, version;
    uint64_t tensor_count, pair_count;      /* as they are written */
    unsigned tensors_used, pairs_used;
    uint64_t alignment;
    int64_t data_change;        /* bytes that the data has more or less */
    bool ends_early;            /* without the padding of the last tensor */
    size_t header_size, size;
    pair pairs[MAX_PAIRS];
    tensor tensors[MAX_TENSORS];
    uint8_t bytes[MAX_BYTES];
} file;

typedef struct element_type {
    uint32_t number;
    unsigned elements, bytes;   /* of a block */
} element_type;

#define ELEMENT_TYPES 18
extern const element_type element_types[ELEMENT_TYPES];

/* Bytes of a value of this type of metadata; 0 for strings and arrays. */
unsigned value_size(uint32_t type);

void describe_file(file *f, source *s);
void spoil_file(file *f);
void write_file(file *f);

#endif
