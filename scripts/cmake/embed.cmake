# Writes the Lua modules named in LIST (a CMake list of paths below ROOT) into OUT as C arrays:
#   cmake -DLIST=lua_sources.list -DROOT=lua/moelua -DOUT=lua_sources.c -P embed.cmake
file(READ "${LIST}" files)
string(STRIP "${files}" files)

set(arrays "")
set(table "")
set(count 0)
foreach(file IN LISTS files)
  file(RELATIVE_PATH name "${ROOT}" "${file}")
  string(REGEX REPLACE "\\.lua$" "" name "${name}")
  file(SIZE "${file}" size)
  file(READ "${file}" bytes HEX)
  string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  # An array may not be empty, hence the final zero that the size does not count.
  string(APPEND arrays "static const unsigned char module_${count}[] = {\n${bytes}\n0x00};\n\n")
  string(APPEND table "    {\"${name}\", module_${count}, ${size}},\n")
  math(EXPR count "${count} + 1")
endforeach()

file(WRITE "${OUT}" "/* Written by embed.cmake from lua/moelua: the Lua modules, byte by byte. */
#include <stddef.h>

struct lmoe_source {
    const char *name;
    const unsigned char *data;
    size_t size;
};

extern const struct lmoe_source lmoe_sources[];
extern const size_t lmoe_nsources;

${arrays}const struct lmoe_source lmoe_sources[] = {
${table}    {NULL, NULL, 0},
};

const size_t lmoe_nsources = ${count};
")
