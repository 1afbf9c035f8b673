/* gguf_types.c -- what reading and writing of GGUF share: the numbers of types, the rules of names.
 */
#include <string.h>

#include "checkpoint/gguf.h"

const char *moe__gguf_name_fault(moe_slice name, size_t most) {
    if (name.size == 0) return "is empty";
    if (name.size > most)
        return most == MOE_GGUF_MAX_NAME ? "is longer than 63 bytes"
                                         : "is longer than 65535 bytes";
    if (memchr(name.data, 0, name.size)) return "holds a NUL";
    return moe__utf8_valid(name.data, name.size) == name.size ? NULL : "is no UTF-8";
}

static const struct {
    const char *name;
    size_t size;
} value_types[MOE_GGUF_TYPES] = {
    [MOE_GGUF_U8] = {"u8", 1},      [MOE_GGUF_I8] = {"i8", 1},
    [MOE_GGUF_U16] = {"u16", 2},    [MOE_GGUF_I16] = {"i16", 2},
    [MOE_GGUF_U32] = {"u32", 4},    [MOE_GGUF_I32] = {"i32", 4},
    [MOE_GGUF_F32] = {"f32", 4},    [MOE_GGUF_BOOL] = {"bool", 1},
    [MOE_GGUF_STRING] = {"str", 0}, [MOE_GGUF_ARRAY] = {"arr", 0},
    [MOE_GGUF_U64] = {"u64", 8},    [MOE_GGUF_I64] = {"i64", 8},
    [MOE_GGUF_F64] = {"f64", 8},
};

const char *moe__gguf_type_name(moe_gguf_type type) { return value_types[type].name; }
size_t moe__gguf_type_size(moe_gguf_type type) { return value_types[type].size; }

/* A type that has a name and is not ours exists, but not here. */
#define STRANGE(name) {name, MOE_STORED_COUNT}

static const struct {
    const char *name;
    moe_stored type;
} element_types[] = {
    [0] = {"F32", MOE_STORED_F32},   [1] = {"F16", MOE_STORED_F16},
    [2] = {"Q4_0", MOE_STORED_Q4_0}, [3] = {"Q4_1", MOE_STORED_Q4_1},
    [6] = {"Q5_0", MOE_STORED_Q5_0}, [7] = {"Q5_1", MOE_STORED_Q5_1},
    [8] = {"Q8_0", MOE_STORED_Q8_0}, [9] = STRANGE("Q8_1"),
    [10] = {"Q2_K", MOE_STORED_Q2_K}, [11] = {"Q3_K", MOE_STORED_Q3_K},
    [12] = {"Q4_K", MOE_STORED_Q4_K}, [13] = {"Q5_K", MOE_STORED_Q5_K},
    [14] = {"Q6_K", MOE_STORED_Q6_K}, [15] = STRANGE("Q8_K"),
    [16] = STRANGE("IQ2_XXS"),       [17] = STRANGE("IQ2_XS"),
    [18] = STRANGE("IQ3_XXS"),       [19] = STRANGE("IQ1_S"),
    [20] = STRANGE("IQ4_NL"),        [21] = STRANGE("IQ3_S"),
    [22] = STRANGE("IQ2_S"),         [23] = STRANGE("IQ4_XS"),
    [24] = {"I8", MOE_STORED_I8},    [25] = {"I16", MOE_STORED_I16},
    [26] = {"I32", MOE_STORED_I32},  [27] = {"I64", MOE_STORED_I64},
    [28] = {"F64", MOE_STORED_F64},  [29] = STRANGE("IQ1_M"),
    [30] = {"BF16", MOE_STORED_BF16}, [34] = STRANGE("TQ1_0"),
    [35] = STRANGE("TQ2_0"),         [39] = STRANGE("MXFP4"),
    [40] = STRANGE("NVFP4"),         [41] = STRANGE("Q1_0"),
    [42] = STRANGE("Q2_0"),
};

#define ELEMENT_TYPES (sizeof element_types / sizeof *element_types)

moe_stored moe__gguf_stored(uint32_t number, const char **name) {
    *name = number < ELEMENT_TYPES ? element_types[number].name : NULL;
    return *name ? element_types[number].type : MOE_STORED_COUNT;
}

uint32_t moe__gguf_number(moe_stored type) {
    for (uint32_t i = 0; i < ELEMENT_TYPES; i++)
        if (element_types[i].name && element_types[i].type == type) return i;
    return UINT32_MAX;
}
