/* main.c -- measures what the machine can do, whenever it is asked.
 *
 *     KIND THREADS MILLISECONDS      a line of standard input; KIND: f32 bf16 amx read adamw
 *     {"rate":4.59e+11,"name":"avx512"}      the answer: FLOPs or bytes per second, and with what
 *     {"error":"..."}
 */
#include <stdio.h>
#include <string.h>

#include "yardstick.h"

static const struct {
    const char *name;
    yardstick (*find)(void);
} kinds[] = {
    { "f32", compute_f32 },   { "bf16", compute_bf16 },   { "amx", compute_amx },
    { "read", memory_read },  { "adamw", memory_adamw },
};

static yardstick find(const char *kind) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kind, kinds[i].name) == 0) return kinds[i].find();
    return (yardstick){ "known are f32, bf16, amx, read and adamw", NULL };
}

static void answer(const char *request) {
    char kind[16];
    int threads, milliseconds;
    if (sscanf(request, "%15s %d %d", kind, &threads, &milliseconds) != 3 || threads < 1 ||
        threads > MOST_THREADS || milliseconds < 1) {
        printf("{\"error\":\"KIND THREADS MILLISECONDS is expected\"}\n");
        return;
    }
    yardstick y = find(kind);
    double rate = y.work ? team_rate(threads, milliseconds * 1e-3, y.work) : 0;
    if (y.work == NULL)
        printf("{\"error\":\"%s\"}\n", y.name);
    else if (rate < 0)
        printf("{\"error\":\"%d threads cannot be started\"}\n", threads);
    else
        printf("{\"rate\":%.6g,\"name\":\"%s\"}\n", rate, y.name);
}

int main(void) {
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        answer(line);
        fflush(stdout);
    }
    return 0;
}
