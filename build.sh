#!/usr/bin/env bash
# Every task of this project: ./build.sh help lists them. Quiet when all is well.
#
# build/ holds everything a task leaves behind:
#   presence, presence-asan, presence-tsan   the program: released, and under two sanitizers
#   unit, unit-asan, unit-tsan, fuzzers      the test programs
#   gen/                                     generated C: bundled files, licences
#   vendor/                                  the embedded sources, and what was compiled from them
#   test/, fuzz/, dist/                      logs, findings, the archive to ship
#
# Settings, all from the environment:
#   PRESENCE_VENDOR_CACHE   archives and compiled vendor code, shared between checkouts
#   PRESENCE_SOURCE         build this file in place of presence.c
#   FUZZ_SECONDS            how long each fuzzer searches in `test`, default 10
#   LOG_LINES               how much of a failed step's log is shown, default 100
#   JOBS                    how many compilers at once, default one a processor
#   TEST_JOBS               how many files of tests at once, default two a processor: most wait
#   TEST_TIMEOUT            seconds one of them may take, default 300
#   LONG_TIMEOUT            seconds a file of test/full may take, default 1200
#   SOURCE_DATE_EPOCH       the time stamp inside the archive of `dist`, default 0
set -eu -o pipefail
shopt -s nullglob
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 022
export LC_ALL=C.UTF-8
unset CPATH C_INCLUDE_PATH LIBRARY_PATH LD_LIBRARY_PATH CDPATH GREP_OPTIONS GZIP

SOURCE=${PRESENCE_SOURCE:-presence.c}
JOBS=${JOBS:-$(nproc)}
TEST_JOBS=${TEST_JOBS:-$(($(nproc) * 2))}
TEST_TIMEOUT=${TEST_TIMEOUT:-300}
LONG_TIMEOUT=${LONG_TIMEOUT:-1200}
CACHE=${PRESENCE_VENDOR_CACHE:-${XDG_CACHE_HOME:-${HOME:-$PWD/build}/.cache}/presence/vendor}
SRC=build/vendor/src
GEN=build/gen
MAX_BINARY=2000000
MAX_FILE=300000

# ==== Small things ================================================================================

# Ends the script with one line on stderr.
die() {
    echo "build.sh: $*" >&2
    exit 1
}

# Prints one hash over everything on stdin.
hash_stdin() {
    sha256sum | cut -c 1-64
}

# Prints how many bytes a file has.
size_of() {
    wc -c <"$1" | tr -d ' '
}

# Keeps two runs in the same checkout from making the same thing at the same time: $1 what.
lock() {
    mkdir -p build/obj
    command -v flock >/dev/null || return 0
    exec 9>"build/obj/$1.lock"
    flock 9
}

# Lets the next one build.
unlock() {
    command -v flock >/dev/null || return 0
    exec 9>&-
}

# Moves $1 to $2 unless $2 has that content already, so that nothing looks newer than it is.
replace() {
    if cmp -s "$1" "$2"; then rm "$1"; else mv "$1" "$2"; fi
}

# ==== What has to be installed ====================================================================

# Prints PACKAGE:PROBE for a task. The package counts as installed when the probe is a command, or a
# path (which may have wildcards) that exists.
packages() {
    echo gcc:gcc libc6-dev:/usr/include/stdio.h musl-tools:musl-gcc binutils:readelf patch:patch \
        xz-utils:xz bzip2:bzip2
    case $1 in
    test | long | fuzz)
        echo clang:clang libcmocka-dev:/usr/include/cmocka.h \
            libclang-rt-dev:'/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.asan*'
        ;;
    lint)
        echo clang:clang libcmocka-dev:/usr/include/cmocka.h cppcheck:cppcheck \
            shellcheck:shellcheck mandoc:mandoc universal-ctags:ctags
        ;;
    esac
    case $1 in test | long | lint | hostile) echo nodejs:node npm:npm iproute2:ip git:git ;; esac
    case $1 in
    test | long) echo openssl:openssl chromium:chromium libnss3-tools:certutil ;;
    hostile)
        echo openssl:openssl slowhttptest:slowhttptest testssl.sh:testssl bsdextrautils:hexdump
        ;;
    esac
    case $1 in
    long)
        echo nginx:/usr/sbin/nginx haproxy:/usr/sbin/haproxy caddy:/usr/bin/caddy \
            apache2-bin:/usr/sbin/apache2 python3-venv:'/usr/lib/python3*/ensurepip'
        ;;
    esac
}

# True when the probe finds what it looks for.
probe() {
    case $1 in
    node) node -e 'process.exit(parseInt(process.versions.node, 10) >= 18 ? 0 : 1)' 2>/dev/null ;;
    ctags) ctags --version 2>/dev/null | grep Universal >/dev/null ;;
    /*) [ -n "$(compgen -G "$1")" ] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

# Installs what a task lacks: with apt for root on Debian or Ubuntu, otherwise says what to type.
need() {
    local item items missing=() how
    mapfile -t items < <(packages "$1" | tr ' ' '\n')
    for item in "${items[@]}"; do
        probe "${item#*:}" || missing+=("${item%%:*}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    how="apt-get install --no-install-recommends ${missing[*]}"
    command -v apt-get >/dev/null || die "please install, by Debian's names: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "missing: ${missing[*]}. To install: sudo $how"
    echo "build.sh: installing ${missing[*]}" >&2
    mkdir -p build
    export DEBIAN_FRONTEND=noninteractive
    $how -y >build/apt.log 2>&1 </dev/null && return
    { apt-get update && $how -y; } >build/apt.log 2>&1 </dev/null && return
    tail -n 20 build/apt.log >&2
    die "could not install ${missing[*]}"
}

# ==== Variants ====================================================================================

# What a function of ours must compile without.
WARNINGS="-std=c11 -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
    -Wformat=2 -Wundef -Wpointer-arith -Wwrite-strings -Wconversion -Wno-sign-conversion -Werror"
# A test program includes presence.c and uses a part of it.
TEST_WARNINGS="$WARNINGS -Wno-unused-function -Wno-unused-const-variable -Wno-unused-variable
    -Wno-missing-prototypes -Wno-conversion -Wno-write-strings
    -Wno-sometimes-uninitialized"
# Our own includes, and those of the embedded libraries.
INCLUDES="-I$GEN -Ivendor -isystem $SRC/lmdb/libraries/liblmdb -isystem $SRC/mbedtls/include"
# What a test program includes besides: its own, and Mbed TLS's inside for fuzz_tls.c.
TEST_INCLUDES="-Itest -isystem $SRC/mbedtls/library"
DEFINES='-D_GNU_SOURCE -DMBEDTLS_CONFIG_FILE=<mbedtls_config.h>'
# CivetWeb's own, for the seam only; which of its features exist is decided in civetweb_seam.c.
CIVETWEB="-I$SRC/civetweb/include -I$SRC/civetweb/src"
# Nothing in an object says where it was compiled: names are relative, and compile_in_place hides
# the folder.
SAME="-ffile-prefix-map=/proc/self/cwd=. -pthread"
# The undefined behaviour sanitizer watches our code only: LMDB relies on unaligned access.
OURS_UBSAN="-fsanitize=undefined -fno-sanitize-recover=all"

# Where the embedded code for a faster X25519 is, see vendor/mbedtls_curve.c.
EVEREST="-I$SRC/mbedtls/3rdparty/everest/library -I$SRC/mbedtls/3rdparty/everest/include/everest
    -I$SRC/mbedtls/3rdparty/everest/include/everest/kremlib"
# Mbed TLS copies and clears numbers of four words all the time. musl's functions take longer to
# begin than to copy them: an ECDSA signature with P-256 takes 178 us in place of 229 with this.
WORDS="-minline-all-stringops -mmemcpy-strategy=loop:64:noalign,libcall:-1:noalign
    -mmemset-strategy=loop:64:noalign,libcall:-1:noalign"

# Sets CC, CFLAGS (all code), OURS (our code only), NUMBERS (Mbed TLS's arithmetic), LDFLAGS and KEY
# for a variant.
variant() {
    OURS=
    NUMBERS=
    case $1 in
    release)
        CC=musl-gcc
        CFLAGS="-O2 -fPIE -fstack-protector-strong -ffunction-sections -fdata-sections
            -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-ident -idirafter $GEN/kernel"
        [ "$(uname -m)" != x86_64 ] || NUMBERS=$WORDS
        LDFLAGS="-Wl,--gc-sections,-z,relro,-z,now,-z,noexecstack,--build-id=none,--strip-all"
        ;;
    plain)
        CC=gcc
        CFLAGS="-O1 -g -D_FORTIFY_SOURCE=2 -fstack-protector-strong"
        LDFLAGS=
        ;;
    asan)
        CC=gcc
        CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address"
        OURS=$OURS_UBSAN
        LDFLAGS="-fsanitize=address,undefined"
        ;;
    tsan)
        CC=gcc
        CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=thread"
        LDFLAGS="-fsanitize=thread"
        ;;
    fuzz)
        CC=clang
        CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address"
        OURS=$OURS_UBSAN
        LDFLAGS="-fsanitize=fuzzer,address,undefined"
        ;;
    *) die "no such variant: $1" ;;
    esac
    CFLAGS="$CFLAGS $SAME $DEFINES"
    KEY=$({
        echo "$CC $CFLAGS $EVEREST $NUMBERS"
        uname -m
        "$CC" --version | sed -n 1p
        cat vendor/lock vendor/{lmdb,mbedtls}_*.[ch]
        dpkg-query -W musl-dev libc6-dev 2>/dev/null || true
    } | hash_stdin | cut -c 1-16)
}

# Calls a compiler ($1) that takes the current folder to be /proc/self/cwd.
compile_in_place() {
    PWD=/proc/self/cwd "$@"
}

# Prints the folder that holds musl's start files and library.
musl_dir() {
    musl-gcc -v -E -x c /dev/null 2>&1 | sed -n 's|^Reading specs from \(.*\)/[^/]*$|\1|p'
}

# Links objects ($2...) into $1. The released program is static and position-independent: musl-gcc
# knows only one of the two at a time, so its start files are named here.
link() {
    local out=$1 dir
    shift
    if [ "$CC" != musl-gcc ]; then
        # shellcheck disable=SC2086
        "$CC" $CFLAGS $LDFLAGS "$@" -o "$out.tmp"
    else
        dir=$(musl_dir)
        # shellcheck disable=SC2086
        "$CC" -nostdlib -pie -Wl,-static,--no-dynamic-linker,-z,text $LDFLAGS \
            "$dir/rcrt1.o" "$dir/crti.o" "$("$CC" -print-file-name=crtbeginS.o)" "$@" \
            -Wl,--start-group -lc -lgcc -lgcc_eh -Wl,--end-group \
            "$("$CC" -print-file-name=crtendS.o)" "$dir/crtn.o" -o "$out.tmp"
    fi
    mv "$out.tmp" "$out"
}

# ==== Embedded libraries ==========================================================================

# Compiles LMDB and Mbed TLS for the variant that is set, or takes them from the cache. LIBRARY is
# where they are then.
vendor_library() {
    local dir=build/vendor/objects-$KEY cached=$CACHE/objects/$KEY.a
    LIBRARY=build/vendor/vendor-$KEY.a
    [ "$CC" != musl-gcc ] || ln -sfn "vendor-$KEY.a" build/vendor/release.a # for the benchmark
    [ ! -f "$LIBRARY" ] || return 0
    if [ -f "$cached" ]; then
        touch "$cached"
        cp "$cached" "$LIBRARY.tmp"
        mv "$LIBRARY.tmp" "$LIBRARY"
        return
    fi
    rm -rf "$dir"
    mkdir -p "$dir"
    # shellcheck disable=SC2016
    printf '%s\n' $SRC/mbedtls/library/*.c vendor/{lmdb,mbedtls}_seam.c vendor/mbedtls_curve.c \
        $SRC/lmdb/libraries/liblmdb/midl.c | grep -v '/ecp\.c$' |
        CC="$CC" FLAGS="$CFLAGS $INCLUDES -I$SRC/mbedtls/library $EVEREST -w" NUMBERS="$NUMBERS" \
            DIR="$dir" xargs -P "$JOBS" -n 4 bash -c 'set -eu
                for file; do
                    name=${file##*/} more=
                    [ "$name" != bignum_core.c ] || more=$NUMBERS
                    PWD=/proc/self/cwd $CC $FLAGS $more -c "$file" -o "$DIR/${name%.c}.o"
                done' - ||
        die "the embedded libraries do not compile"
    ar rcsD "$LIBRARY.tmp" "$dir"/*.o
    mkdir -p "$CACHE/objects"
    find "$CACHE/objects" -type f -mtime +30 -delete
    cp "$LIBRARY.tmp" "$cached.$$"
    mv "$cached.$$" "$cached"
    mv "$LIBRARY.tmp" "$LIBRARY"
    rm -rf "$dir"
}

# Compiles CivetWeb with our seam to it. SEAM is where the object is then.
vendor_seam() {
    local key
    key=$({ echo "$KEY $CIVETWEB" && cat vendor/civetweb_seam.*; } | hash_stdin | cut -c 1-16)
    SEAM=build/vendor/seam-$key.o
    [ ! -f "$SEAM" ] || return 0
    # shellcheck disable=SC2086
    compile_in_place "$CC" $CFLAGS $INCLUDES $CIVETWEB -w -c vendor/civetweb_seam.c -o "$SEAM.tmp"
    mv "$SEAM.tmp" "$SEAM"
}

# ==== Generated code ==============================================================================

# Prints the bytes of stdin as C numbers from -128 to 127 (d) or 0 to 255 (u), separated by commas.
c_bytes() {
    od -An -v -t "${1}1" | sed 's/  */,/g; s/^,//; s/$/,/'
}

# Prints the Content-Type of a bundled file.
content_type() {
    case $1 in
    *.html) echo 'text/html; charset=utf-8' ;;
    *.js | *.mjs) echo 'text/javascript; charset=utf-8' ;;
    *.ts) echo 'application/typescript; charset=utf-8' ;;
    *.css) echo 'text/css; charset=utf-8' ;;
    *.svg) echo 'image/svg+xml; charset=utf-8' ;;
    *.txt) echo 'text/plain; charset=utf-8' ;;
    *.webmanifest) echo 'application/manifest+json; charset=utf-8' ;;
    *.json) echo 'application/json; charset=utf-8' ;;
    *.png) echo 'image/png' ;;
    *.ico) echo 'image/x-icon' ;;
    *) die "web/$1: no Content-Type known for this kind of file, see content_type in build.sh" ;;
    esac
}

# Prints the names of the files to bundle, relative to web/, sorted.
asset_names() {
    [ -d web ] || return 0
    (cd web && find . -name node_modules -prune -o -name '.?*' -prune -o -type f \
        ! -name '*.json' ! -name '*.md' ! -name '*.test.*' ! -path './test/*' -print) |
        sed 's|^\./||' | LC_ALL=C sort
}

# Writes assets.inc: every file of web/ as bytes, once as it is and once packed where that is
# smaller, and ASSETS, the table of them sorted by path. With nothing to bundle ASSETS has one entry
# whose path is empty, which no request can name.
generate_assets() {
    local name type hash size packed index=0 table='' data gzip
    packed=$GEN/asset.gz
    echo '/* Generated by build.sh from web/. */'
    for name in $(asset_names); do
        [[ $name != *[!A-Za-z0-9._/-]* ]] || die "web/$name: only letters, digits, . _ - please"
        type=$(content_type "$name")
        hash=$(sha256sum <"web/$name" | cut -c 1-16)
        size=$(size_of "web/$name")
        data=asset_${index}_data gzip=NULL
        echo "static const unsigned char ${data}[] = {"
        if [ "$size" = 0 ]; then echo 0; else c_bytes u <"web/$name"; fi
        echo '};'
        gzip -9n <"web/$name" >"$packed"
        if [ "$(size_of "$packed")" -lt "$size" ]; then
            gzip=asset_${index}_gzip
            printf 'static const unsigned char %s[] = {\n%s\n};\n' "$gzip" "$(c_bytes u <"$packed")"
            gzip="$gzip, sizeof $gzip"
        else
            gzip="NULL, 0"
        fi
        table+="    {\"/$name\", \"$type\", \"\\\"$hash\\\"\", $data, $size, $gzip},"$'\n'
        index=$((index + 1))
    done
    rm -f "$packed"
    [ -n "$table" ] || table='    {"", "", "", NULL, 0, NULL, 0},'$'\n'
    printf 'static const struct asset ASSETS[] = {\n%s};\n' "$table"
}

# Prints the notice of musl, which the C library's package carries.
musl_notice() {
    local file
    for file in /usr/share/doc/musl{-dev,,-tools}/copyright; do
        [ ! -f "$file" ] || { cat "$file" && return; }
    done
    die "musl's copyright notice is not where Debian has it: /usr/share/doc/musl-dev/copyright"
}

# Prints the licences of all that is inside the binary.
licenses_text() {
    echo "presence contains CivetWeb, LMDB, Mbed TLS and musl. These are their licences."
    printf '\n======== CivetWeb ========\n\n'
    cat $SRC/civetweb/LICENSE.md
    printf '\n======== LMDB ========\n\n'
    cat $SRC/lmdb/libraries/liblmdb/{COPYRIGHT,LICENSE}
    printf '\n======== Mbed TLS (used under the Apache License) ========\n\n'
    sed '/GNU GENERAL PUBLIC LICENSE/,$d' $SRC/mbedtls/LICENSE
    printf '\n======== Mbed TLS: its X25519 (Project Everest), under the same licence ========\n\n'
    sed -n '1,2p' $SRC/mbedtls/3rdparty/everest/library/Hacl_Curve25519.c
    printf '\n======== musl ========\n\n'
    musl_notice
}

# Writes licenses.inc: the licences as one string, spelled as an array since no literal may be that
# long.
generate_licenses() {
    echo '/* Generated by build.sh from the licence files of the embedded libraries. */'
    echo "static const char LICENSES[$(($(size_of $GEN/licenses.txt) + 1))] = {"
    c_bytes d <$GEN/licenses.txt
    echo '0};'
}

# Gives musl the kernel's own headers (linux/, asm/), which Debian's musl leaves out.
link_kernel_headers() {
    local multiarch
    multiarch=$(gcc -print-multiarch 2>/dev/null || true)
    mkdir -p $GEN/kernel
    ln -sfn /usr/include/linux $GEN/kernel/linux
    ln -sfn /usr/include/asm-generic $GEN/kernel/asm-generic
    ln -sfn "/usr/include/${multiarch:+$multiarch/}asm" $GEN/kernel/asm
}

# Fetches the embedded sources and writes everything in build/gen.
prepare() {
    vendor/fetch.sh
    mkdir -p $GEN
    link_kernel_headers
    generate_assets >$GEN/assets.tmp
    replace $GEN/assets.tmp $GEN/assets.inc
    [ ! -f $GEN/licenses.inc ] || [ $SRC/.stamp -nt $GEN/licenses.inc ] ||
        [ build.sh -nt $GEN/licenses.inc ] || return 0
    licenses_text >$GEN/licenses.txt
    generate_licenses >$GEN/licenses.tmp
    mv $GEN/licenses.tmp $GEN/licenses.inc
}

# ==== Programs ====================================================================================

# Builds a program: $1 variant, $2 source, $3 output, then further flags for it. Does nothing when
# neither a source nor a flag has changed since the last time.
build_program() {
    local variant=$1 source=$2 out=$3 object key flags=$WARNINGS
    shift 3
    variant "$variant"
    lock vendor
    prepare
    unlock
    lock "vendor-$variant"
    vendor_library
    vendor_seam
    unlock
    lock "$(basename "$out")"
    [ "$source" = "$SOURCE" ] || flags="$TEST_WARNINGS -I$(dirname "$SOURCE") $TEST_INCLUDES"
    object=build/obj/$(basename "$out").o
    key=$({
        echo "$KEY $SEAM $CC $CFLAGS $OURS $LDFLAGS $flags $source $*"
        cat "$SOURCE" "$source" vendor/*.h $GEN/*.inc test/*.[ch] test/fuzz/*.c build.sh
    } | hash_stdin)
    if [ ! -x "$out" ] || [ "$(cat "$object.key" 2>/dev/null)" != "$key" ]; then
        rm -f "$object.key"
        # shellcheck disable=SC2086
        compile_in_place "$CC" $CFLAGS $OURS $flags $INCLUDES -c "$source" -o "$object" ||
            die "$source does not compile"
        link "$out" "$object" "$SEAM" "$LIBRARY" "$@"
        echo "$key" >"$object.key"
    fi
    unlock
}

# Builds the released program, and proves what is promised about it.
build_release() {
    local size elf
    build_program release "$SOURCE" build/presence
    elf=$(readelf -hldW build/presence)
    [[ $elf != *INTERP* ]] || die "build/presence asks for a dynamic linker"
    [[ $elf != *NEEDED* ]] || die "build/presence needs shared libraries"
    [[ $elf == *"Type:"*DYN* ]] || die "build/presence is not position-independent"
    size=$(size_of build/presence)
    [ "$size" -le $MAX_BINARY ] || die "build/presence has $size bytes, more than $MAX_BINARY"
    echo "build/presence: statically linked, $(thousands "$size") bytes"
}

# Prints a number with commas.
thousands() {
    sed -e ':a' -e 's/\([0-9]\)\([0-9]\{3\}\)\($\|,\)/\1,\2\3/; ta' <<<"$1"
}

# Builds the program under a sanitizer, asan or tsan.
build_sanitized() {
    build_program "$1" "$SOURCE" "build/presence-$1"
}

# Builds the unit tests in a variant: $1 variant, $2 output.
build_unit() {
    build_program "$1" test/unit.c "$2" -lcmocka
}

# Builds the program that has all fuzzers.
build_fuzzers() {
    build_program fuzz test/fuzz/fuzz.c build/fuzzers
}

# Prints the names of the fuzzers.
fuzzers() {
    local file
    for file in test/fuzz/fuzz_*.c; do
        file=${file##*/fuzz_}
        echo "${file%.c}"
    done
}

# Prints the sources of the test programs; other C files under test/ are included by these.
test_programs() {
    local file
    for file in test/unit.c test/fuzz/fuzz.c; do
        [ ! -f "$file" ] || echo "$file"
    done
}

# Becomes a command, as the sanitizers need it. The thread sanitizer of gcc 12 and clang 14 dies
# ("unexpected memory mapping") on kernels that place memory with more than 28 random bits
# (sysctl vm.mmap_rnd_bits), so memory is placed without chance where that may be switched off.
sanitized() {
    local fixed=()
    local asan=detect_stack_use_after_return=1:strict_string_checks=1
    local tsan="second_deadlock_stack=1:suppressions='$PWD/vendor/tsan.supp'"
    ! setarch -R true 2>/dev/null || fixed=(setarch -R)
    ASAN_OPTIONS=$asan${ASAN_OPTIONS:+:$ASAN_OPTIONS} \
        UBSAN_OPTIONS=print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS} \
        TSAN_OPTIONS=$tsan${TSAN_OPTIONS:+:$TSAN_OPTIONS} \
        exec ${fixed[@]+"${fixed[@]}"} "$@"
}

# ==== Tests =======================================================================================

PASSED=0
FAILED=0
SKIPPED=

# Adds up the numbers that lines of a log ($1) hold where the extended regular expression $2 has
# its first (or $3rd) group.
sum_of() {
    sed -nE "s/^.*$2.*\$/\\${3:-1}/p" "$1" | awk '{ n += $1 } END { print n + 0 }'
}

# Counts a step: $1 name, $2 passed, $3 failed, $4 seconds, then the logs to show on failure. What
# was skipped (SKIPPED) is shown, with its reason.
count() {
    local log
    PASSED=$((PASSED + $2))
    FAILED=$((FAILED + $3))
    printf '%-28s %5d passed %4d failed %6d s\n' "$1" "$2" "$3" "$4"
    [ -z "$SKIPPED" ] || echo "$SKIPPED"
    SKIPPED=
    [ "$3" != 0 ] || return 0
    for log in "${@:5}"; do show_failure "$log" | sed 's/^/    /'; done
}

# Prints what matters of a failed step's log: in TAP what is not ok, else its start and its end.
show_failure() {
    local lines=${LOG_LINES:-100} half
    half=$((lines / 2))
    if grep '^ *not ok' "$1" >/dev/null; then
        grep -A 30 '^ *not ok' "$1" | sed -n "1,${lines}p"
    elif [ "$(wc -l <"$1")" -le "$lines" ]; then
        cat "$1"
    else
        sed -n "1,${half}p" "$1"
        echo "[...]"
        tail -n $half "$1"
    fi
    echo "(all of it: $1)"
}

# Jobs run side by side, each in a group of processes of its own, which ends with this script. A
# step is done when all of its jobs are; a log ends with the job's exit status and seconds.
QUEUE=()
BUILT=" "
declare -A RUNNING=() LEFT=() LOGS=() SINCE=()

# Adds a job: $1 its step, $2 its log, then the command.
queue() {
    QUEUE+=("$(printf '%q ' "$@")")
    LEFT[$1]=$((${LEFT[$1]:-0} + 1))
    LOGS[$1]+="$2 "
}

# Starts a job of the queue.
start_job() {
    local step=$1 log=$2
    shift 2
    SINCE[$step]=${SINCE[$step]:-$SECONDS}
    ("$@") >"$log" 2>&1 </dev/null &
    RUNNING[$!]="$step $log $SECONDS"
}

# Waits for a job to end, and counts its step if that is done: $1 what counts.
end_job() {
    local pid status=0 step log since
    wait -n -p pid || status=$?
    read -r step log since <<<"${RUNNING[$pid]}"
    unset "RUNNING[$pid]"
    echo "# exit $status $((SECONDS - since))" >>"$log"
    LEFT[$step]=$((LEFT[$step] - 1))
    [ "${LEFT[$step]}" -gt 0 ] || "$1" "$step" $((SECONDS - SINCE[$step]))
}

# Runs the queue: $1 how many jobs at once, $2 what counts a step that is done.
run_queue() {
    local job
    set -m
    trap 'trap - EXIT; stop_jobs' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    for job in ${QUEUE[@]+"${QUEUE[@]}"}; do
        [ ${#RUNNING[@]} -lt "$1" ] || end_job "$2"
        eval "start_job $job"
    done
    while [ ${#RUNNING[@]} -gt 0 ]; do end_job "$2"; done
    trap - EXIT INT TERM
    set +m
    QUEUE=()
}

# Ends all jobs.
stop_jobs() {
    local pid
    for pid in "${!RUNNING[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || :; done
}

# Adds a job that builds something: $1 what, then the command.
queue_build() {
    queue "build-$1" "build/test/build-$1.log" "${@:2}"
}

# Counts what was built; what cannot be is a failure like any other.
count_build() {
    local log=${LOGS[$1]% } name=${1#build-} status
    read -r _ _ status _ < <(tail -n 1 "$log")
    if [ "$status" != 0 ]; then
        count "build $name" 0 1 "$2" "$log"
    else
        BUILT+="$name "
        [ "$2" -lt 2 ] || printf '%-28s %31d s\n' "build $name" "$2"
    fi
}

# Whether something was built.
built() {
    [[ $BUILT == *" $1 "* ]]
}

# Counts a step of tests. A log that ends badly, without a test to blame, is one failure.
count_tests() {
    local log logs status seconds passed failed bad=() all_passed=0 all_failed=0
    read -ra logs <<<"${LOGS[$1]}"
    for log in "${logs[@]}"; do
        read -r _ _ status seconds < <(tail -n 1 "$log")
        case $1 in
        unit*)
            passed=$(sum_of "$log" '\[  PASSED  \] ([0-9]+) test\(s\)')
            failed=$(sum_of "$log" '\[  FAILED  \] ([0-9]+) test\(s\)')
            ;;
        fuzz_*) passed=$((status == 0)) failed=0 ;;
        *)
            passed=$(tail -n 12 "$log" | sum_of - '# pass ([0-9]+)')
            failed=$(tail -n 12 "$log" | sum_of - '# (fail|cancelled) ([0-9]+)' 2)
            ;;
        esac
        [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
        [ "$failed" = 0 ] || bad+=("$log")
        all_passed=$((all_passed + passed))
        all_failed=$((all_failed + failed))
        [ "$seconds" -lt 60 ] || [ ${#logs[@]} = 1 ] ||
            printf '    %-51s took %3d s\n' "$(basename "$log" .log)" "$seconds"
    done
    [[ $1 != long ]] || SKIPPED=$(skipped_in "${logs[@]}")
    count "$1" $all_passed $all_failed "$2" ${bad[@]+"${bad[@]}"}
}

# Prints what was skipped, and why, by the logs of files of tests.
skipped_in() {
    local log
    for log; do
        sed -nE 's/^ *ok [0-9]+ - (.*) # SKIP ?(.*)$/\1: \2/p' "$log" |
            sed "s|^|    skipped: $(basename "$log" .test.js.log): |"
    done
}

# Runs a cmocka program: $1 name.
run_unit() {
    sanitized timeout "$TEST_TIMEOUT" "build/$1"
}

# Lets a fuzzer search: $1 name, $2 seconds, $3 those after which it is ended, $4 the folder of what
# it found before, then what else it is told. It begins with the committed corpus. That of the whole
# server runs more threads than its own, so leaks are looked for once, at its end; and it keeps its
# last inputs.
run_fuzzer() {
    local corpus=test/fuzz/corpus/$1 journal=build/fuzz/journal/$1
    rm -rf "$journal"
    mkdir -p build/fuzz/artifacts "$4" "$journal"
    [ -d "$corpus" ] || corpus=
    if [ "$1" = server ]; then
        set -- "$@" -detect_leaks=0 -timeout=60
    else
        set -- "$@" -len_control=100 # its default where there is no mutator of ours
    fi
    export FUZZER=$1 FUZZ_JOURNAL=$journal
    export ASAN_OPTIONS=handle_segv=2:handle_sigbus=2${ASAN_OPTIONS:+:$ASAN_OPTIONS}
    sanitized timeout "$3" build/fuzzers -max_total_time="$2" -timeout=10 "${@:5}" \
        -artifact_prefix="build/fuzz/artifacts/$1-" "$4" ${corpus:+"$corpus"}
}

# Lets a fuzzer search for a short while, each time anew: its log has the seed of it.
run_fuzzer_briefly() {
    rm -rf "build/fuzz/short/$1"
    run_fuzzer "$1" "${FUZZ_SECONDS:-10}" "$TEST_TIMEOUT" "build/fuzz/short/$1"
}

# Runs a file of tests in JavaScript: $1 program, $2 variant, $3 file, $4 seconds it may take.
run_javascript() {
    PRESENCE_BIN=$PWD/$1 PRESENCE_VARIANT=$2 sanitized timeout -k 5 "$4" \
        node --test-reporter=tap "$3"
}

# The same for a file of test/full, which may also start the program under sanitizers.
run_long() {
    ! built presence-asan || export PRESENCE_BIN_ASAN=$PWD/build/presence-asan
    run_javascript "$1" "$2" "$3" "$LONG_TIMEOUT"
}

# Installs what the tests take from npm, as locked, when that is not there yet; false on failure.
npm_install() {
    [ -f test/package-lock.json ] || return 0
    [ ! test/node_modules/.package-lock.json -nt test/package-lock.json ] || return 0
    echo "build.sh: installing test/node_modules" >&2
    (cd test && npm ci --no-audit --no-fund) >build/test/npm.log 2>&1 </dev/null && return
    cat build/test/npm.log >&2
    return 1
}

# Queues a step of tests, unless what it needs could not be built: $1 its name.
queue_step() {
    local name=$1 variant=${1#*-} program file files run=run_javascript
    case $name in
    unit*)
        ! built "$name" || queue "$name" "build/test/$name.log" run_unit "$name"
        return
        ;;
    fuzz)
        for file in $(fuzzers); do
            ! built fuzzers || queue "fuzz_$file" "build/test/fuzz_$file.log" \
                run_fuzzer_briefly "$file"
        done
        return
        ;;
    web) files=(test/web/*.test.js) ;;
    long) files=(test/full/*.test.js) run=run_long ;;
    *) files=(test/integration/*.test.js) ;;
    esac
    program=presence-$variant
    [ "$variant" != "$name" ] || program=presence variant=release
    built "$program" && built node_modules || return 0
    rm -rf "build/test/$name"
    mkdir -p "build/test/$name"
    while read -r file; do # the largest first: they take longest
        queue "$name" "build/test/$name/$(basename "$file").log" \
            $run "build/$program" "$variant" "$file" "$TEST_TIMEOUT"
    done < <(ls -S "${files[@]}")
}

# ==== Lint ========================================================================================

PROBLEMS=0

# Runs a check: its output, if any, is a list of problems. $1 what, then the command.
check() {
    local what=$1 found status=0
    shift
    found=$("$@" 2>&1 </dev/null) || status=$?
    [ "$status" != 0 ] || [ -n "$found" ] || return 0
    PROBLEMS=$((PROBLEMS + 1))
    printf -- '--- %s\n%s\n' "$what" "${found:-exit status $status}" |
        sed -n '1,100p; 101s/.*/[...]/p'
}

# Prints the names of our files: committed, or new and not ignored.
our_files() {
    if git rev-parse --git-dir >/dev/null 2>&1; then
        git ls-files -co --exclude-standard | while read -r file; do
            [ ! -f "$file" ] || echo "$file"
        done
    else
        find . \( -name .git -o -path ./build -o -name node_modules \) -prune -o -type f -print |
            sed 's|^\./||'
    fi | LC_ALL=C sort
}

# Prints those of our files, each ended by NUL, whose names match an extended regular expression.
our_texts() {
    our_files | grep -E "$1" | tr '\n' '\0' || true
}

# Compiles our code without output: $1 compiler, then flags.
check_compiler() {
    local cc=$1 file
    shift
    # shellcheck disable=SC2086
    [ ! -f "$SOURCE" ] || "$cc" "$@" -fsyntax-only $SAME $DEFINES $WARNINGS $INCLUDES "$SOURCE"
    for file in $(test_programs); do
        # shellcheck disable=SC2086
        "$cc" -fsyntax-only $SAME $DEFINES $TEST_WARNINGS $INCLUDES -I. $TEST_INCLUDES "$file"
    done
}

# Static analysis of the program; what it finds by guessing is left out.
check_cppcheck() {
    [ -f "$SOURCE" ] || return 0
    cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
        --max-configs=1 --suppress=missingIncludeSystem --suppress=internalAstError \
        --template='{file}:{line}: {message} [{id}]' -D_GNU_SOURCE -D__linux__ "$SOURCE"
}

# The manual pages are sound mdoc.
check_manual() {
    local page status=0
    for page in man/*.[1-8]; do
        mandoc -T lint -W warning "$page" || status=1
    done
    return $status
}

# Every JavaScript file parses, as a module or as a script.
check_javascript() {
    local file
    our_texts '\.m?js$' | while read -r -d '' file; do
        node --check "$file" >/dev/null 2>&1 || node --input-type=module --check - <"$file" ||
            echo "$file: does not parse"
    done
}

# presence.c has no prototype: a call points up.
check_prototypes() {
    ctags -x --languages=C --kinds-C=p "$SOURCE" | awk '{ print $4 ":" $3 ": prototype of " $1 }'
}

# The list of sections in the first comment of presence.c is what its banners say.
check_sections() {
    local listed banners
    listed=$(sed -n '1,/\*\//{s/^ \*  *\([0-9][0-9]*\. .*\)$/\1/p;}' "$SOURCE")
    banners=$(sed -nE 's|[ =]*(\*/)?$||; s|^/\* =+ ([0-9]+\. .*)$|\1|p' "$SOURCE")
    awk -v listed="$listed" -v banners="$banners" 'BEGIN {
        n = split(listed, l, "\n"); m = split(banners, b, "\n")
        for (i = 1; i <= n || i <= m; i++) {
            rest = substr(l[i], length(b[i]) + 1)
            if (b[i] == "" || index(l[i], b[i]) != 1 || rest !~ /^($|  |\t|[ ]*[:-])/)
                print "listed: \"" l[i] "\", banner: \"" b[i] "\""
        }
    }'
}

# A function has at most 120 lines and a comment directly above it.
check_functions() {
    ctags -o - --languages=C --kinds-C=f --fields=+ne --excmd=number "$SOURCE" |
        sed -n 's/^\([^\t]*\)\t\([^\t]*\)\t.*line:\([0-9]*\).*end:\([0-9]*\).*$/\3 \4 \1/p' |
        sort -n | awk -v file="$SOURCE" '
            NR == FNR { text[FNR] = $0; next }
            {
                if ($2 - $1 + 1 > 120) print file ":" $1 ": " $3 " has " $2 - $1 + 1 " lines"
                above = $1 - 1
                while (text[above] ~ /^(static|const|inline|__attribute__|[a-z_]+ \**$)/) above--
                if (text[above] !~ /\*\/[ \t]*$/ && text[above] !~ /^\/\//)
                    print file ":" $1 ": " $3 " has no comment above it"
            }' "$SOURCE" -
}

# No line of the program is too long for a window; no line ends in blanks or defers work.
check_lines() {
    local code='^(presence\.c|build\.sh|vendor/.*\.(c|h|sh)|\.ci/run|test/(unit|fuzz/.*)\.[ch])$'
    local text='(\.(c|h|sh|js|mjs|ts|css|html|yml|[1-8])|^\.ci/run)$'
    our_texts "$code" | xargs -0 grep -nE '^.{101,}' |
        sed -E 's/^([^:]*:[0-9]+):.*/\1: over 100 columns/'
    our_texts "$text" | xargs -0 grep -nE '[[:blank:]]+$' | sed 's/$/ (blanks at the end)/'
    our_texts "$text" | xargs -0 grep -nE "(//|\*|#).*\<(TO""DO|FIX""ME|X""XX)\>" |
        sed 's/$/ (do it, or open an issue)/'
    return 0
}

# Nothing is at the top but the fixed layout, and no file is as large as only a mistake would be.
check_layout() {
    local file top='build\.sh|README\.md|presence\.c|(vendor|test|web|man)/.*'
    our_files | grep -vE "^($top|\.[^/]+|\.ci/run)\$" |
        sed 's/$/: does not belong at the top/'
    our_files | grep -vx presence.c | while read -r file; do
        [ "$(size_of "$file")" -le $MAX_FILE ] || echo "$file: larger than $MAX_FILE bytes"
    done
}

# No file names a place to download from, as this machine has them configured, or this checkout.
check_places() {
    local place
    {
        cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#'
        npm config get registry 2>/dev/null
    } | grep -oE '[a-z]+://[^ /]+' | sed 's|.*://||; s|.*@||; s|:[0-9]*$||' | sort -u |
        { cat && if [ "${#PWD}" -gt 5 ]; then echo "$PWD"; fi; } |
        while read -r place; do
            our_texts . | xargs -0 grep -nIF -- "$place" | sed "s|\$| (names $place)|"
        done
    our_texts 'package-lock\.json$' | xargs -0 -r grep -nH '"resolved"'
    return 0
}

# ==== Tasks =======================================================================================
# A line that starts with two signs is the help of the task below it.

## run [ARGUMENTS]   build the program and start it with these arguments
task_run() {
    need run
    build_release >&2
    exec build/presence "$@"
}

## build             build/presence: static, stripped, the same bytes from the same sources
task_build() {
    need build
    build_release
}

## test [STEP ...]   unit, fuzz and integration tests, plain and under sanitizers; or only the
##                   steps unit, unit-asan, unit-tsan, fuzz, web, integration, integration-asan,
##                   integration-tsan; or long, the files of test/full: what takes longer, and what
##                   needs other programs than the rest
## test full         all of these and long
task_test() {
    local name variant start=$SECONDS wanted=" $* " all
    all=" unit unit-asan unit-tsan fuzz web integration integration-asan integration-tsan "
    [ $# -gt 0 ] || wanted=$all
    [[ $wanted != *" full "* ]] || wanted="$all long "
    need test
    [[ $wanted != *" long "* ]] || need long
    mkdir -p build/test
    [[ $wanted != *" fuzz "* ]] || queue_build fuzzers build_fuzzers
    for variant in asan tsan; do
        [[ $wanted != *" unit-$variant "* ]] ||
            queue_build unit-$variant build_unit $variant build/unit-$variant
    done
    [[ ! $wanted =~ " integration-asan "|" long " ]] ||
        queue_build presence-asan build_sanitized asan
    [[ $wanted != *" integration-tsan "* ]] || queue_build presence-tsan build_sanitized tsan
    [[ $wanted != *" unit "* ]] || queue_build unit build_unit plain build/unit
    [[ ! $wanted =~ " web "|" integration "|" long " ]] || queue_build presence build_release
    [[ ! $wanted =~ " web "|" integration"|" long " ]] || queue_build node_modules npm_install
    run_queue "$JOBS" count_build
    for name in web unit-tsan unit-asan unit fuzz integration-tsan integration-asan integration; do
        [[ $wanted != *" $name "* ]] || queue_step $name
    done
    run_queue "$TEST_JOBS" count_tests
    if [[ $wanted == *" long "* ]]; then # alone: most of them use the processors themselves
        queue_step long
        run_queue "$JOBS" count_tests
    fi
    printf '%-28s %31d s\n' total $((SECONDS - start))
    echo "$PASSED passed, $FAILED failed"
    [ "$FAILED" = 0 ] && [ "$PASSED" -gt 0 ]
}

## lint              compilers' warnings, static analysis and the rules of this code base
task_lint() {
    need lint
    lock vendor
    prepare
    unlock
    check "gcc" check_compiler gcc
    check "clang" check_compiler clang
    check "cppcheck" check_cppcheck
    check "shellcheck" shellcheck build.sh vendor/*.sh .ci/run
    check "manual pages" check_manual
    check "JavaScript" check_javascript
    if [ -f "$SOURCE" ]; then
        check "prototypes" check_prototypes
        check "sections" check_sections
        check "functions" check_functions
    fi
    check "lines" check_lines
    check "layout" check_layout
    check "places" check_places
    [ "$PROBLEMS" = 0 ] || die "lint: $PROBLEMS checks found something"
}

## asan              build/presence-asan: the address and undefined behaviour sanitizers
task_asan() {
    need build
    build_sanitized asan
}

## tsan              build/presence-tsan: the thread sanitizer
task_tsan() {
    need build
    build_sanitized tsan
}

## fuzz [SECONDS [NAME ...]]
##                   let every fuzzer, or these, search for that long each (60); findings go to
##                   build/fuzz/artifacts
task_fuzz() {
    local name seconds=${1:-60} status=0 names
    [ $# = 0 ] || shift
    need fuzz
    build_fuzzers
    mapfile -t names < <(fuzzers)
    [ $# = 0 ] || names=("$@")
    for name in "${names[@]}"; do
        [ -f "test/fuzz/fuzz_$name.c" ] || die "no such fuzzer: $name"
        mkdir -p build/fuzz
        echo "fuzz_$name: $seconds seconds"
        (run_fuzzer "$name" "$seconds" $((seconds + 300)) "build/fuzz/corpus/$name" \
            -print_final_stats=1) >"build/fuzz/$name.log" 2>&1 </dev/null || status=1
        tail -n 12 "build/fuzz/$name.log"
    done
    return $status
}

## bench [ARGUMENTS] measure: test/bench/run.sh
task_bench() {
    need build
    build_release >&2
    mkdir -p build/test
    ! command -v npm >/dev/null || npm_install >&2 || : # without it the peers are not measured
    exec test/bench/run.sh "$@"
}

## hostile           attack it for five minutes: slowhttptest, 10,000 silent sockets, testssl
task_hostile() {
    need hostile
    build_release >&2
    mkdir -p build/test
    npm_install
    PRESENCE_BIN=$PWD/build/presence timeout -k 10 420 \
        node --test-reporter=spec test/integration/hostile.js
}

## dist              the archive to ship: the program, its manual pages, the licences
task_dist() {
    local version name root
    need build
    build_release
    version=$(build/presence --version | grep -oE '[0-9]+\.[0-9]+[0-9A-Za-z.+-]*' | sed -n 1p)
    name=presence-$version-linux-$(uname -m)
    root=build/dist/$name
    rm -rf "$root"
    mkdir -p "$root"
    cp build/presence "$root/"
    cp $GEN/licenses.txt "$root/LICENSES"
    [ -z "$(compgen -G 'man/*.[1-8]')" ] || cp man/*.[1-8] "$root/"
    chmod 644 "$root"/*
    chmod 755 "$root/presence"
    tar --sort=name --mtime="@${SOURCE_DATE_EPOCH:-0}" --owner=0 --group=0 --numeric-owner \
        --format=ustar -C build/dist -cf - "$name" | gzip -9n >"$root.tar.gz"
    rm -rf "$root"
    echo "$root.tar.gz: $(thousands "$(size_of "$root.tar.gz")") bytes"
}

## clean             remove build/
task_clean() {
    rm -rf build
}

## help              this list
task_help() {
    echo "usage: ./build.sh TASK"
    sed -n 's/^## /  /p' build.sh
}

task=${1:-help}
[ $# = 0 ] || shift
case $task in
run | build | test | lint | asan | tsan | fuzz | bench | hostile | dist | clean)
    "task_$task" "$@"
    ;;
help | -h | --help) task_help ;;
*)
    task_help >&2
    die "no such task: $task"
    ;;
esac
