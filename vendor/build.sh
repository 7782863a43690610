# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# What goes into the program besides presence.c: compilers and their flags, the embedded libraries,
# generated C. Sourced by build.sh; does nothing by itself.

# ==== Variants ====================================================================================

# What a function of ours must compile without.
WARNINGS="-std=c11 -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
    -Wformat=2 -Wundef -Wpointer-arith -Wwrite-strings -Wconversion -Wno-sign-conversion -Werror"
# A test program includes presence.c and uses a part of it.
TEST_WARNINGS="$WARNINGS -Wno-unused-function -Wno-unused-const-variable -Wno-unused-variable
    -Wno-missing-prototypes -Wno-conversion -Wno-write-strings
    -Wno-sometimes-uninitialized"
# Our own includes, and those of the embedded libraries.
INCLUDES="-I$GEN -Ivendor -isystem $SRC/lmdb/libraries/liblmdb -isystem $SRC/mbedtls/include
    -isystem $SRC"
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
        CFLAGS="-O1 -g1 -fno-omit-frame-pointer -fsanitize=address"
        OURS=$OURS_UBSAN
        LDFLAGS="-fsanitize=address,undefined"
        ;;
    tsan)
        CC=gcc
        CFLAGS="-O1 -g1 -fno-omit-frame-pointer -fsanitize=thread"
        LDFLAGS="-fsanitize=thread"
        ;;
    coverage)
        CC=gcc
        CFLAGS="-O1 -g"
        OURS="-O0 --coverage -fprofile-update=atomic -fprofile-info-section=gcov_info"
        LDFLAGS=
        ;;
    fuzz)
        CC=clang
        CFLAGS="-O1 -g1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address"
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
        cat vendor/lock vendor/{hiredis,lmdb,mbedtls}_*.[ch]
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

# Compiles hiredis, LMDB and Mbed TLS for the variant that is set, or takes them from the cache.
# LIBRARY is where they are then.
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
    printf '%s\n' $SRC/mbedtls/library/*.c vendor/{hiredis,lmdb,mbedtls}_seam.c \
        vendor/mbedtls_curve.c $SRC/hiredis/{alloc,async,hiredis,net,read,sds}.c \
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
    *) die "web/$1: no Content-Type known for this kind of file, see vendor/build.sh" ;;
    esac
}

# Prints the names of the files to bundle, relative to web/, sorted.
asset_names() {
    [ -d web ] || return 0
    (cd web && find . -name node_modules -prune -o -name '.?*' -prune -o -type f ! -name '*.json' \
        ! -name '*.md' ! -name LICENSE ! -name '*.test.*' ! -path './test/*' -print) |
        sed 's|^\./||' | LC_ALL=C sort
}

# Writes assets.inc: every file of web/ as bytes, once as it is and once packed where that is
# smaller, and ASSETS, the table of them sorted by path. With nothing to bundle ASSETS has one entry
# whose path is empty, which no request can name.
generate_assets() {
    local name type hash size packed index=0 table='' data gzip
    packed=$GEN/asset.gz
    echo '/* Generated by vendor/build.sh from web/. */'
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

# Prints our own licence, which the README has as its one indented block under "Licence".
own_license() {
    local text
    text=$(sed -n '/^## Licence$/,/^## /{/^$/p; s/^    //p;}' README.md | cat -s | sed '/./,$!d')
    [[ $text == "MIT License"*" THE SOFTWARE." ]] || die "README.md: no licence under ## Licence"
    echo "$text"
}

# Prints the licences of all that is inside the binary, ours first.
licenses_text() {
    own_license
    printf '\n%s\n' \
        "presence contains CivetWeb, hiredis, LMDB, Mbed TLS and musl. These are their licences."
    printf '\n======== CivetWeb ========\n\n'
    cat $SRC/civetweb/LICENSE.md
    printf '\n======== hiredis ========\n\n'
    cat $SRC/hiredis/COPYING
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
    echo '/* Generated by vendor/build.sh from README.md and licence files of the libraries. */'
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
        [ vendor/build.sh -nt $GEN/licenses.inc ] || [ README.md -nt $GEN/licenses.inc ] || return 0
    licenses_text >$GEN/licenses.txt
    generate_licenses >$GEN/licenses.tmp
    mv $GEN/licenses.tmp $GEN/licenses.inc
}

# Prints what clangd and other tools ask for, a JSON list: how each C file of ours is compiled.
compile_commands() {
    local file flags comma='['
    for file in "$SOURCE" $(test_programs) vendor/*_seam.c vendor/mbedtls_curve.c; do
        flags="$CFLAGS $INCLUDES"
        case $file in
        vendor/*) flags+=" $CIVETWEB $EVEREST -I$SRC/mbedtls/library -w" ;;
        test/*) flags+=" $TEST_WARNINGS -I. $TEST_INCLUDES" ;;
        *) flags+=" $WARNINGS" ;;
        esac
        # shellcheck disable=SC2086
        printf '%s{"directory": "%s", "file": "%s", "arguments": ["%s"' "$comma" "$PWD" "$file" $CC
        # shellcheck disable=SC2086
        printf ', "%s"' $flags -c "$file"
        echo ']}'
        comma=,
    done
    echo ']'
}
