/* documents.h -- what a text is cut into: documents, each with its hash and its split.
 *
 * A document ends at the first blank line after 64 KB, or after 128 KB when there is none, or with
 * the text. Licence comments at its beginning are left out: they repeat in every file and would
 * teach and test nothing else. The hash of what remains decides the split, so that equal documents
 * fall on the same side and a new file moves no old one.
 */
#ifndef MOE_TEXT_DOCUMENTS_H
#define MOE_TEXT_DOCUMENTS_H

#include "moe.h"

#define MOE_DOCUMENT_TARGET ((size_t)64 * 1024)
#define MOE_DOCUMENT_LIMIT ((size_t)128 * 1024)

/* The splits, as token files store them. */
enum { MOE_TEST, MOE_VALIDATION, MOE_TRAIN, MOE_SPLITS };

typedef struct moe_document {
    size_t begin, end;      /* bytes of the text, without licence comments */
    uint64_t hash;          /* XXH3-64 of them */
    int split;
} moe_document;

/* Where the document that begins at `begin` ends. */
size_t moe__document_end(const char *text, size_t size, size_t begin);

/* The length of the licence comments at the beginning of a document, with the blank lines after
 * them; 0 when there are none. Comments are C, C++, shell, SQL, Lua or Metamath ones that mention
 * a licence, copyright or SPDX; the first that does not ends them. */
size_t moe__licence_end(const char *document, size_t size);

/* hash mod 20: 0 is test, 1 validation, the others train. */
int moe__document_split(uint64_t hash);

/* The next document at or after *at that holds more than white space; moves *at behind it. False
 * at the end of the text. */
bool moe__next_document(const char *text, size_t size, size_t *at, moe_document *out);

#endif
