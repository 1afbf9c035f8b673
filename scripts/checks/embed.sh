#!/usr/bin/env bash
# embed.sh BUILD_FOLDER: does an installed moelua serve others? Installs into a temporary prefix,
# moves it (a prefix is not baked in), then uses it in the four ways that exist: the executable,
# the module in a stock Lua, the library through pkg-config and through find_package. In between
# hosts run out of memory and interrupt their scripts, see embed/*.c.
# The last line is `N passed, N failed`.
#   MOELUA_EVERY=1   memory fails at every n-th request; 29 where this is not set
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(readlink -f "${1:?usage: embed.sh BUILD_FOLDER}")
work=$(mktemp -d "${TMPDIR:-/tmp}/moelua-embed.XXXXXX")
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
cd "$work" || exit 1

# try NAME COMMAND...: one check; what the command says is shown when it fails.
try() {
    local name=$1
    shift
    if "$@" > said 2>&1; then
        passed=$((passed + 1))
        printf 'ok      embed: %s\n' "$name"
    else
        failed=$((failed + 1))
        sed 's/^/    /' said
        printf 'FAILED  embed: %s\n' "$name"
    fi
}

install_and_move() {
    cmake --install "$build" --prefix "$work/first" && mv first prefix
}

example_runs() {
    timeout 120 "$1" "$root/examples/embed"/*.lua
}

# compile PROGRAM SOURCE...: against what is installed, by pkg-config.
compile() {
    local flags program=$1
    shift
    flags=$(PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig pkg-config --cflags --libs moelua) ||
        return 1
    # shellcheck disable=SC2086
    cc -g -Wall -Wextra -Werror $MOELUA_EMBED_CFLAGS -o "$program" "$@" $flags
}

with_pkg_config() {
    compile host "$root"/examples/embed/*.c &&
        LD_LIBRARY_PATH=$work/prefix/lib example_runs ./host
}

without_memory() {
    mkdir swept && compile memory "$root/scripts/checks/embed/memory.c" &&
        LD_LIBRARY_PATH=$work/prefix/lib ./memory swept "${MOELUA_EVERY:-29}"
}

with_interrupts() {
    compile interrupt "$root/scripts/checks/embed/interrupt.c" -pthread &&
        LD_LIBRARY_PATH=$work/prefix/lib timeout 120 ./interrupt
}

with_writes() {
    compile write "$root/scripts/checks/embed/write.c" &&
        LD_LIBRARY_PATH=$work/prefix/lib timeout 120 ./write
}

with_cmake() {
    mkdir project
    cat > project/CMakeLists.txt << END
cmake_minimum_required(VERSION 3.25)
project(host LANGUAGES C)
find_package(moelua 0.1 REQUIRED)
file(GLOB sources $root/examples/embed/*.c)
add_executable(host \${sources})
target_link_libraries(host PRIVATE moelua::moelua)
END
    cmake -S project -B project/build -DCMAKE_PREFIX_PATH="$work/prefix" \
        -DCMAKE_C_FLAGS="$MOELUA_EMBED_CFLAGS" &&
        cmake --build project/build && example_runs project/build/host
}

has_recipes() {
    [ -z "$(ls "$root/scripts/recipes")" ] || [ -n "$(ls "$work/prefix/share/moelua/recipes")" ]
}

# A sanitised library needs a host that is sanitised as well, which a stock Lua is not.
sanitize=$(sed -n 's/^MOELUA_SANITIZE:STRING=//p' "$build/CMakeCache.txt")
MOELUA_EMBED_CFLAGS=${sanitize:+-fsanitize=$sanitize}

try "install" install_and_move
try "recipes are installed" has_recipes
try "the installed program runs" \
    prefix/bin/moelua -e 'assert(require("moelua").zeros(2, 3):size(2) == 3)'
if [ -z "$sanitize" ] && command -v lua5.4 > /dev/null; then
    try "require in a stock Lua" env LUA_CPATH_5_4="$work/prefix/lib/lua/5.4/?.so;;" \
        lua5.4 -e 'assert(require("moelua").zeros(2, 3):size(2) == 3)'
    try "a second require, and finalizers after the end" \
        env LUA_CPATH_5_4="$work/prefix/lib/lua/5.4/?.so;;" lua5.4 -e '
            older = setmetatable({}, { __gc = function() pcall(moe.zeros, 2) end })
            moe = require("moelua")
            local scope = moe.scope()
            package.loaded.moelua = nil
            local x = require("moelua").ones(2)
            scope:close()
            assert(tostring(x) == "Tensor (released)")'
fi
try "a host without memory" without_memory
try "a host that interrupts all the time" with_interrupts
try "a host that writes into a weight" with_writes
if compgen -G "$root/examples/embed/*.c" > /dev/null; then
    try "the example host, by pkg-config" with_pkg_config
    try "the example host, by find_package" with_cmake
fi

printf '%d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
