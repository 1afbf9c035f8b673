/* driver.c -- a fuzzer's inputs without a fuzzer.
 *
 *     fuzz_safetensors FILE|FOLDER...             inputs that were kept
 *     fuzz_safetensors --generate N [--seed S]    N inputs of eight bytes, the same each time
 *
 * The last line is `N passed, N failed`. An input that crashes is named on the way out.
 */
#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char current[4096];
static volatile uint64_t passed;

static void died(int number) {
    char text[4200];
    int size = snprintf(text, sizeof text, "FAILED  %s (signal %d)\n%" PRIu64 " passed, 1 failed\n",
                        current, number, passed);
    if (write(STDOUT_FILENO, text, (size_t)size) != size) _exit(2);
    _exit(1);
}

static void run_file(const char *path) {
    static uint8_t bytes[1 << 20];
    FILE *f = fopen(path, "rb");
    snprintf(current, sizeof current, "%s", path);
    if (!f) raise(SIGABRT);
    size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    LLVMFuzzerTestOneInput(bytes, size);
    passed++;
}

static void run_path(const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) run_file(path);
    for (int i = 0; i < count; i++) {
        char inside[4096];
        snprintf(inside, sizeof inside, "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.') run_path(inside);
        free(entries[i]);
    }
    if (count >= 0) free(entries);
}

static void generate(uint64_t count, uint64_t seed) {
    for (uint64_t i = 0; i < count; i++) {
        uint8_t input[8];
        uint64_t value = (seed + i) * 0x9e3779b97f4a7c15u;
        value ^= value >> 32;
        memcpy(input, &value, sizeof input);
        snprintf(current, sizeof current, "--generate 1 --seed %" PRIu64, seed + i);
        LLVMFuzzerTestOneInput(input, sizeof input);
        passed++;
    }
}

int main(int argc, char **argv) {
    static const int deadly[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    uint64_t count = 0, seed = 1;
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) signal(deadly[i], died);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--generate") == 0 && i + 1 < argc)
            count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else
            run_path(argv[i]);
    }
    generate(count, seed);
    printf("%" PRIu64 " passed, 0 failed\n", passed);
    return passed == 0;
}
