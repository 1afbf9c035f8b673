/* half.h -- the 16-bit floats of files: f16 (IEEE 754 binary16), bf16 (the upper half of f32). */
#ifndef MOE_BASE_HALF_H
#define MOE_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t moe__float_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

static inline float moe__bits_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Both cases are computed and one is chosen, so that a loop around it can be vectorised. */
static inline float moe__from_half(uint16_t h) {
    uint32_t magnitude = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t normal = (magnitude << 13) + (112u << 23);
    normal += magnitude >= 0x7c00u ? 112u << 23 : 0;        /* infinite or NaN stays so */
    float tiny = (float)(int32_t)magnitude * 0x1p-24f;      /* subnormal: exact in a float */
    return moe__bits_float(sign | (magnitude < 0x400u ? moe__float_bits(tiny) : normal));
}

/* Rounds to the nearest, even when tied; beyond 65504 lies infinity, as IEEE 754 demands. */
static inline uint16_t moe__to_half(float f) {
    uint32_t bits = moe__float_bits(f), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {          /* subnormal: let the float adder do the rounding */
        float rounded = moe__bits_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (moe__float_bits(rounded) - 0x3f000000u));
    }
    magnitude += 0xfffu + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000u) >> 13);
}

static inline float moe__from_bfloat(uint16_t h) { return moe__bits_float((uint32_t)h << 16); }

static inline uint16_t moe__to_bfloat(float f) {
    uint32_t bits = moe__float_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);              /* keep it a NaN when cut */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

#endif
