/* yardstick.h -- what a machine can do at most. Nothing here is shared with moelua. */
#ifndef YARDSTICK_H
#define YARDSTICK_H

#include "team.h"

/* One thing to measure: `work` is NULL where `name` says why it cannot be measured here. */
typedef struct yardstick {
    const char *name;
    team_work work;
} yardstick;

/* Arithmetic that never leaves the registers: multiply-adds of f32, bf16 pairs summed in f32
 * (vdpbf16ps), and bf16 tiles (AMX). In FLOPs. */
yardstick compute_f32(void);
yardstick compute_bf16(void);
yardstick compute_amx(void);

/* Memory far larger than the caches: reading it, and the traffic of an AdamW step (weights, moments
 * and gradients read, all but the gradients written). In bytes. */
yardstick memory_read(void);
yardstick memory_adamw(void);

#endif
