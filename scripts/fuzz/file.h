/* file.h -- a safetensors file that is made up, and what has to become of it.
 *
 * A file is described first and written then. The description starts out valid; at most one fault
 * is put into it, so that it is known whether a reader must take it or refuse it. Some files are
 * scratched with random bytes at the end: of those nothing is known.
 */
#ifndef FUZZ_FILE_H
#define FUZZ_FILE_H

#include "source.h"

#define MAX_TENSORS 40
#define MAX_PAIRS 6
#define MAX_RANK 66         /* one that is refused, and one more */
#define MAX_TEXT 160
#define MAX_BYTES (1 << 18)

typedef unsigned __int128 wide;

typedef enum verdict { MUST_LOAD, MUST_FAIL, MAY_DO_EITHER } verdict;

typedef struct text {
    char data[MAX_TEXT];
    size_t size;
    const char *bad;        /* bytes put behind it as they are, which no JSON string may hold */
} text;

typedef enum number_form { PLAIN, LEADING_ZERO, NEGATIVE, FRACTION, EXPONENT, WRAPPED } number_form;

enum { DTYPE, SHAPE, OFFSETS, FIELDS };

typedef struct tensor {
    text name;
    unsigned type;          /* in element_types */
    unsigned rank;
    uint64_t shape[MAX_RANK];
    uint64_t begin, end;
    const char *raw[FIELDS];    /* written instead of the value of a field */
    const char *other;          /* the value of a field that readers have to skip */
    unsigned missing, twice;    /* sets of fields */
    int odd_field;              /* SHAPE or OFFSETS: one of its numbers ... */
    unsigned odd_number;
    number_form odd_form;       /* ... is written in this form */
} tensor;

typedef struct pair {
    text key, value;
} pair;

typedef struct file {
    source *s;
    verdict verdict;
    const char *fault;              /* its name; NULL = none */
    unsigned count;
    pair pairs[MAX_PAIRS];
    unsigned pair_count;
    int metadata;                   /* how often `__metadata__` is written */
    const char *metadata_raw;       /* written instead of its value */
    const char *header;             /* written instead of everything */
    const char *comma, *colon;      /* what stands once where these belong; NULL = they do */
    const char *behind;             /* follows the value of the header */
    unsigned padding;
    uint64_t data_size;             /* that the tensors describe */
    int64_t data_change;            /* bytes that the file has more or less */
    uint64_t length;                /* that the file claims; 0 = the true one ... */
    int64_t length_change;          /* ... and this many bytes more */
    bool spaces;
    size_t header_size, size;
    tensor tensors[MAX_TENSORS];
    uint8_t bytes[MAX_BYTES];
} file;

typedef struct element_type {
    const char *name;
    unsigned bits;
} element_type;

#define ELEMENT_TYPES 22
extern const element_type element_types[ELEMENT_TYPES];

/* Describes a valid file. */
void describe_file(file *f, source *s);
/* Puts one fault into it, if there is a place for the one that the source picks. */
void spoil_file(file *f);
/* Makes bytes of the description. */
void write_file(file *f);

#endif
