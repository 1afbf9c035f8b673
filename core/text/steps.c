/* steps.c -- the steps of a tokenizer by name. */
#include "text/steps.h"

#include <string.h>

static bool find(const char *const *names, int count, const char *name, int *out) {
    for (*out = 0; *out < count; ++*out)
        if (strcmp(names[*out], name) == 0) return true;
    return false;
}

bool moe__step_find(const char *name, moe_step_kind *out) {
    static const char *const names[MOE_STEPS_KNOWN] = {
        [MOE_STEP_NFC] = "nfc", [MOE_STEP_NFD] = "nfd", [MOE_STEP_NFKC] = "nfkc",
        [MOE_STEP_NFKD] = "nfkd", [MOE_STEP_LOWERCASE] = "lowercase",
        [MOE_STEP_STRIP_ACCENTS] = "strip_accents", [MOE_STEP_PREPEND] = "prepend",
        [MOE_STEP_STRIP] = "strip", [MOE_STEP_REPLACE] = "replace", [MOE_STEP_SPLIT] = "split",
        [MOE_STEP_PATTERN] = "pattern", [MOE_STEP_DIGITS] = "digits",
        [MOE_STEP_PREFIX_SPACE] = "prefix_space", [MOE_STEP_METASPACE] = "metaspace",
        [MOE_STEP_BYTE_LEVEL] = "byte_level", [MOE_STEP_BYTE_FALLBACK] = "byte_fallback",
        [MOE_STEP_FUSE] = "fuse", [MOE_STEP_TRIM] = "trim"};
    int i;
    bool found = find(names, MOE_STEPS_KNOWN, name, &i);
    if (found) *out = (moe_step_kind)i;
    return found;
}

bool moe__behavior_find(const char *name, moe_behavior *out) {
    static const char *const names[MOE_BEHAVIORS] = {"isolated", "removed", "merged_with_previous",
                                                     "merged_with_next", "contiguous"};
    int i;
    bool found = find(names, MOE_BEHAVIORS, name, &i);
    if (found) *out = (moe_behavior)i;
    return found;
}

bool moe__scheme_find(const char *name, moe_scheme *out) {
    static const char *const names[MOE_SCHEMES] = {"always", "first", "never"};
    int i;
    bool found = find(names, MOE_SCHEMES, name, &i);
    if (found) *out = (moe_scheme)i;
    return found;
}

void moe__steps_close(moe_steps *steps) {
    for (size_t i = 0; i < steps->count; i++) {
        moe__pattern_free(steps->step[i].pattern);
        moe__buffer_free(&steps->step[i].text);
        moe__buffer_free(&steps->step[i].scratch);
    }
    steps->count = 0;
}
