#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every task of this project: ./build.sh help lists them. Quiet when all is well.
# What they use is in vendor/build.sh, vendor/package/build.sh, test/run.sh and test/lint.sh.
#
# build/ holds everything a task leaves behind:
#   presence, presence-asan, presence-tsan   the program: released, and under two sanitizers
#   unit, unit-asan, unit-tsan, fuzzers      the test programs
#   gen/                                     generated C: bundled files, licences
#   vendor/                                  the embedded sources, and what was compiled from them
#   test/, fuzz/, dist/                      logs, findings, what is to be shipped
#   cross/                                   programs for other processors, and their musl
#   valkey/                                  a second engine, for the tests of clusters
#   coverage/, compile_commands.json         what no test reaches; what clangd reads
#
# Settings, all from the environment:
#   PRESENCE_VENDOR_CACHE   archives and compiled vendor code, shared between checkouts
#   PRESENCE_SOURCE         build this file in place of presence.c
#   FUZZ_SECONDS            how long each fuzzer searches in `test`, default 10; the quickest half
#   LOG_LINES               how much of a failed step's log is shown, default 100
#   JOBS                    how many compilers at once, default one a processor
#   TEST_JOBS               how many files of tests at once, default two a processor: most wait
#   TEST_TIMEOUT            seconds one of them may take, default 300
#   LONG_TIMEOUT            seconds a file of test/full, or one of its unit tests, may take: 1200
#   PREFIX, DESTDIR, SYSCONFDIR  for `install`: /usr/local, nothing, /etc; from / on, of letters,
#                           digits and / . _ + - @ alone
#   SOURCE_DATE_EPOCH       the time stamps in what `package` makes, default the last commit's
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
MIN_COVERAGE=90 # of a hundred lines of presence.c

# shellcheck source=vendor/build.sh
. vendor/build.sh
# shellcheck source=vendor/package/build.sh
. vendor/package/build.sh
# shellcheck source=test/run.sh
. test/run.sh
# shellcheck source=test/lint.sh
. test/lint.sh

# ==== Small things ================================================================================

# Ends the script with one line on stderr.
die() {
    echo "build.sh: $*" >&2
    exit 1
}

# Ends the script if a folder to install to ($2, of setting $1) is none that can be written into a
# unit: systemd wants it from the root on, and has a meaning of its own for % and blanks.
check_place() {
    [[ $2 =~ ^/[a-zA-Z0-9/._+@-]*$ ]] ||
        die "$1: '$2' is not from / on, of letters, digits and / . _ + - @ alone; choose another"
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
            shellcheck:shellcheck mandoc:mandoc universal-ctags:ctags clang-format:clang-format
        ;;
    esac
    case $1 in test | long | lint | hostile) echo nodejs:node npm:npm iproute2:ip git:git ;; esac
    case $1 in long) echo golang-go:go php-cli:php ruby:ruby default-jdk-headless:javac ;; esac
    case $1 in
    test | long)
        echo openssl:openssl chromium:chromium chromium-headless-shell:chromium-headless-shell \
            libnss3-tools:certutil redis-server:redis-server pebble:pebble
        ;;
    hostile)
        echo openssl:openssl slowhttptest:slowhttptest testssl.sh:testssl bsdextrautils:hexdump
        ;;
    esac
    case $1 in
    package) echo nodejs:node npm:npm ;;
    package-*)
        if [ "${1#*-}" != "$(host_arch)" ]; then
            target "${1#*-}"
            echo "gcc-$TRIPLET:$TRIPLET-gcc" make:make \
                "linux-libc-dev-${1#*-}-cross:/usr/$TRIPLET/include/linux/types.h"
        fi
        ;;
    long)
        echo nginx:/usr/sbin/nginx haproxy:/usr/sbin/haproxy caddy:/usr/bin/caddy \
            lintian:lintian skopeo:skopeo qemu-user-static:qemu-aarch64-static \
            debootstrap:/usr/sbin/debootstrap prometheus:promtool systemd:systemd-analyze \
            zsh:zsh fish:fish apache2-bin:/usr/sbin/apache2 \
            python3-venv:'/usr/lib/python3*/ensurepip' \
            make:make libssl-dev:/usr/include/openssl/ssl.h certbot:certbot
        ;;
    esac
}

# True when the probe finds what it looks for.
probe() {
    case $1 in
    node) node -e 'process.exit(parseInt(process.versions.node, 10) >= 18 ? 0 : 1)' 2>/dev/null ;;
    clang-format) command -v clang-format-14 clang-format >/dev/null ;;
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

# ==== Programs ====================================================================================

# Builds a program: $1 variant, $2 source, $3 output, then further flags for it. Does nothing when
# neither a source nor a flag has changed since the last time.
build_program() {
    local variant=$1 source=$2 out=$3 object key flags=$WARNINGS tests=()
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
    [ "$source$*" = "$SOURCE" ] || tests=(test/{,unit/,fuzz/}*.[ch])
    object=build/obj/$(basename "$out").o
    key=$({
        echo "$KEY $SEAM $CC $CFLAGS $OURS $LDFLAGS $flags $source $*"
        cat "$SOURCE" "$source" vendor/*.h $GEN/*.inc ${tests[@]+"${tests[@]}"} {,vendor/}build.sh
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

## test              the tests that CI wants: unit tests plain and under sanitizers, fuzzers, the
##                   web files, and each file of test/integration in the variants it is for
## test STEP ...     all of a step: unit, unit-asan, unit-tsan, fuzz, web, integration (the released
##                   program), integration-asan, integration-tsan, long (the files of test/full:
##                   what takes longer, and what needs other programs than the rest)
## test full         all of all steps
task_test() {
    local name variant start=$SECONDS wanted=" $* " chosen=false all
    all=" unit unit-asan unit-tsan fuzz web integration integration-asan integration-tsan "
    [ $# -gt 0 ] || wanted=$all chosen=true
    [[ $wanted != *" full "* ]] || wanted="$all long "
    $chosen || export PRESENCE_THOROUGH=1
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
    [[ $wanted != *" long "* ]] || queue_build valkey build_valkey
    [[ $wanted != *" integration-tsan "* ]] || queue_build presence-tsan build_sanitized tsan
    [[ $wanted != *" unit "* ]] || queue_build unit build_unit plain build/unit
    [[ ! $wanted =~ " web "|" integration "|" long " ]] || queue_build presence build_release
    [[ ! $wanted =~ " web "|" integration"|" long " ]] || queue_build node_modules npm_install
    run_queue "$JOBS" count_build
    for name in web unit-asan unit-tsan integration-tsan integration-asan integration fuzz unit; do
        [[ $wanted != *" $name "* ]] || queue_step $name $chosen
    done
    run_queue "$TEST_JOBS" count_tests
    if [[ $wanted == *" long "* ]]; then # alone: most of them use the processors themselves
        queue_step long $chosen
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
    check_all
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

## coverage          how many lines of presence.c unit and integration tests reach; the others are
##                   listed in build/coverage
task_coverage() {
    need test
    rm -rf build/coverage
    mkdir -p build/test build/coverage/{unit,presence}
    queue_build presence-coverage build_coverage "$SOURCE" presence
    queue_build unit-coverage build_coverage test/unit.c unit -lcmocka
    queue_build node_modules npm_install
    run_queue "$JOBS" count_build
    LOG_LINES=10 # without optimization some are too slow: that is not what is asked here
    queue_step unit-coverage false
    queue_step integration-coverage false
    run_queue "$TEST_JOBS" count_tests
    report_coverage
}

## compdb            build/compile_commands.json, for clangd
task_compdb() {
    need build
    lock vendor
    prepare
    unlock
    variant plain
    compile_commands >build/compile_commands.json
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

## install           put program, manual pages, unit and completions below PREFIX (/usr/local)
task_install() {
    local prefix=${PREFIX:-/usr/local} system=${SYSCONFDIR:-/etc} config
    check_place PREFIX "$prefix"
    check_place SYSCONFDIR "$system"
    [ -z "${DESTDIR:-}" ] || check_place DESTDIR "$DESTDIR"
    need build
    build_release >&2
    install_files "${DESTDIR:-}" "$prefix" "$system" build/presence build/presence
    config=${DESTDIR:-}$system/presence/presence.conf
    [ -e "$config" ] || put 644 vendor/package/presence.conf "$config"
}

## package [ARCH ...]
##                   what is to be shipped, into build/dist: tarball and .deb for amd64 and arm64,
##                   tarball for armhf, npm package, OCI image, SPDX list, SHA256SUMS
task_package() {
    local arch program images=() size
    [ $# -gt 0 ] || set -- amd64 arm64 armhf
    need package
    for arch; do need "package-$arch"; done
    umask 022
    package_date
    VERSION=$(package_version)
    RUNS=build/presence # what prints the completions
    build_release
    rm -rf $DIST
    mkdir -p $DIST
    for arch; do
        program=$(build_arch "$arch")
        images+=("$arch=$program")
        package_tarball "$arch" "$program"
        [ "$arch" = armhf ] || package_deb "$arch" "$program"
    done
    package_image "${images[@]}"
    package_spdx >"$DIST/presence-$VERSION.spdx.json"
    (cd web && npm pack --silent --pack-destination "../$DIST" >/dev/null)
    (cd $DIST && sha256sum -- * >SHA256SUMS)
    for program in "$DIST"/*; do
        size=$(size_of "$program")
        echo "$program: $(thousands "$size") bytes"
    done
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
run | build | test | lint | asan | tsan | coverage | compdb | fuzz | bench | hostile | install | \
    package | clean)
    "task_$task" "$@"
    ;;
help | -h | --help) task_help ;;
*)
    task_help >&2
    die "no such task: $task"
    ;;
esac
