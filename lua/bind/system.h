/* What the three parts of core.system share: system.c (clocks, opener), files.c and process.c. */
#ifndef LMOE_SYSTEM_H
#define LMOE_SYSTEM_H

#include "bind.h"

/* Returns the string at `arg`, or raises with the argument's name. */
const char *lmoe_check_text(lua_State *L, int arg, const char *function, const char *name,
                            size_t *size);
/* For pack: argument `arg`, an end of the part of a text that is packed, or `otherwise`. */
lua_Integer lmoe_part_end(lua_State *L, int arg, const char *name, lua_Integer otherwise);

/* Returns the path at `arg`, or raises: it must be a string without NUL bytes. */
const char *lmoe_check_path(lua_State *L, int arg, const char *function);

/* Returns the seconds at `arg`, or raises: a number from 0 on; huge ones become 10^9. */
double lmoe_check_seconds(lua_State *L, int arg, const char *function);

/* Turns the message on top of the stack into the results nil, message, code; returns 3. */
int lmoe_fail(lua_State *L, const char *code);

/* Pushes true, what functions return that have nothing else to tell; returns 1. */
int lmoe_succeed(lua_State *L);

/* Pushes nil, "function: subject: reason", code for a system error number; returns 3. */
int lmoe_fail_system(lua_State *L, const char *function, const char *subject, int error);

/* Pushes the owner of a file descriptor, -1 at first, and returns the place to put it. The
 * descriptor is closed when the calling C function ends, by return or by error. */
int *lmoe_push_descriptor(lua_State *L);

/* Closes what the owner holds, if anything, and marks it as closed. */
void lmoe_close_descriptor(int *fd);

/* open(2) that never hands the descriptor to child processes. Returns -1 and sets errno. */
int lmoe_open_file(const char *path, int flags);

/* Sleeps; a signal ends the sleep early. Returns 1 when the whole time has passed. */
int lmoe_sleep(double seconds);

/* Seconds of a clock that never steps back. */
double lmoe_clock(void);

/* Add their functions to the table on top of the stack. */
void lmoe_add_files(lua_State *L);
void lmoe_add_process(lua_State *L);

#endif
