/* documents.c -- cuts a text into documents and drops the licences they begin with. */
#include "text/documents.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* The end of the blank line that begins at `at`, or `at` when that line is not blank or reaches
 * `limit`. */
static size_t blank_line_end(const char *text, size_t at, size_t limit) {
    size_t end = at;
    while (end < limit && (text[end] == ' ' || text[end] == '\t' || text[end] == '\r')) end++;
    return end < limit && text[end] == '\n' ? end + 1 : at;
}

size_t moe__document_end(const char *text, size_t size, size_t begin) {
    if (size - begin <= MOE_DOCUMENT_TARGET) return size;
    size_t limit = size - begin <= MOE_DOCUMENT_LIMIT ? size : begin + MOE_DOCUMENT_LIMIT;
    /* From one byte before the target on: a line that begins exactly there may be blank. */
    for (size_t at = begin + MOE_DOCUMENT_TARGET - 1;;) {
        const char *line = memchr(text + at, '\n', limit - at);
        if (!line) return limit;
        at = (size_t)(line - text) + 1;
        size_t end = blank_line_end(text, at, limit);
        if (end > at) return end;
    }
}

/* ---- licences ------------------------------------------------------------------------------ */

static bool begins_with(const char *text, size_t size, const char *word) {
    size_t length = strlen(word);
    return size >= length && memcmp(text, word, length) == 0;
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

/* Does the text contain the lower-case word, in whatever case? */
static bool mentions(const char *text, size_t size, const char *word) {
    size_t length = strlen(word);
    for (size_t at = 0; at + length <= size; at++) {
        size_t same = 0;
        while (same < length && lower(text[at + same]) == word[same]) same++;
        if (same == length) return true;
    }
    return false;
}

static bool is_licence(const char *comment, size_t size) {
    return mentions(comment, size, "licen") || mentions(comment, size, "copyright") ||
           mentions(comment, size, "spdx");
}

/* `#include` and its kin look like shell comments and are none. */
static bool is_directive(const char *line, size_t size) {
    static const char *const words[] = {"#include", "#define", "#if",    "#el",   "#endif",
                                        "#undef",   "#pragma", "#error", "#warn", "#import"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (begins_with(line, size, words[i])) return true;
    return false;
}

/* The size of a comment between two marks, 0 when the text begins with none or it never ends. */
static size_t block_comment(const char *text, size_t size) {
    static const char *const marks[][2] = {{"/*", "*/"}, {"$(", "$)"}, {"--[[", "]]"}};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        if (!begins_with(text, size, marks[i][0])) continue;
        size_t open = strlen(marks[i][0]), close = strlen(marks[i][1]);
        const char *end = memmem(text + open, size - open, marks[i][1], close);
        return end ? (size_t)(end - text) + close : 0;
    }
    return 0;
}

static bool is_comment_line(const char *line, size_t size, const char *mark) {
    return begins_with(line, size, mark) && !is_directive(line, size);
}

/* The size of a run of lines that all begin, after their indentation, with the same mark. */
static size_t line_comments(const char *text, size_t size) {
    static const char *const marks[] = {"//", "--", "#"};
    size_t mark = 0, end = 0;
    while (mark < 3 && !is_comment_line(text, size, marks[mark])) mark++;
    if (mark == 3) return 0;
    for (size_t at = 0; at < size && is_comment_line(text + at, size - at, marks[mark]);) {
        const char *newline = memchr(text + at, '\n', size - at);
        end = newline ? (size_t)(newline - text) + 1 : size;
        for (at = end; at < size && (text[at] == ' ' || text[at] == '\t');) at++;
    }
    return end;
}

static size_t skip_space(const char *text, size_t size, size_t at) {
    while (at < size && is_space(text[at])) at++;
    return at;
}

/* To the beginning of the first line that says something: its indentation stays. */
static size_t skip_blank_lines(const char *text, size_t size, size_t at) {
    size_t start = at;
    for (; at < size && is_space(text[at]); at++)
        if (text[at] == '\n') start = at + 1;
    return at == size ? size : start;
}

size_t moe__licence_end(const char *document, size_t size) {
    for (size_t kept = 0;;) {
        size_t at = skip_space(document, size, kept);
        size_t length = block_comment(document + at, size - at);
        if (length == 0) length = line_comments(document + at, size - at);
        if (length == 0 || !is_licence(document + at, length)) return kept;
        kept = skip_blank_lines(document, size, at + length);
    }
}

/* ---- documents ------------------------------------------------------------------------------ */

int moe__document_split(uint64_t hash) {
    switch (hash % 20) {
        case 0: return MOE_TEST;
        case 1: return MOE_VALIDATION;
        default: return MOE_TRAIN;
    }
}

bool moe__next_document(const char *text, size_t size, size_t *at, moe_document *out) {
    while (*at < size) {
        size_t end = moe__document_end(text, size, *at);
        size_t begin = *at + moe__licence_end(text + *at, end - *at);
        *at = end;
        if (skip_space(text, end, begin) == end) continue;
        out->begin = begin;
        out->end = end;
        out->hash = XXH3_64bits(text + begin, end - begin);
        out->split = moe__document_split(out->hash);
        return true;
    }
    return false;
}
