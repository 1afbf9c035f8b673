/* write.c -- a host that writes into a weight while the script trains it: whatever the core has
 * prepared from the old elements must be gone. The last line is `N passed, N failed`.
 */
#include <moelua.h>
#include <stdio.h>

/* Products of many rows, which a weight is packed for. */
static const char script[] =
    "local moe = require('moelua')\n"
    "x = x or moe.randn(64, 8, { seed = 1 })\n"
    "w = w or moe.randn(8, 8, { seed = 2 }):requires_grad()\n"
    "local y = x:linear(w)\n"
    "y:sum():backward()\n"
    "local fresh = x:linear(w:detach():clone())\n"
    "assert(y:hash() == fresh:hash(), 'the old elements are still in use')\n";

static bool run(moelua *m) {
    if (moelua_run_string(m, script, "host") == MOELUA_OK) return true;
    printf("    %s\n", moelua_errmsg(m));
    return false;
}

static bool overwrite(moelua *m) {
    moe_tensor *w;
    if (moelua_get_tensor(m, "w", &w) != MOELUA_OK) return false;
    moe_real *data = moe_tensor_data(w);
    for (int64_t i = 0; i < moe_tensor_count(w); i++) data[i] = (moe_real)i;
    moe_tensor_written(w);
    moe_tensor_release(w);
    return true;
}

int main(void) {
    moelua *m;
    bool good = moelua_open(&m, NULL) == MOELUA_OK && run(m) && overwrite(m) && run(m);
    moelua_close(m);
    printf("%d passed, %d failed\n", good, !good);
    return !good;
}
