#!/bin/sh
# SPDX-License-Identifier: MIT
# Finds the archives that vendor/lock names, checks their SHA-256, and unpacks them, patched, under
# build/vendor/src/NAME. Does nothing when that is already done for this lock.
#
#   vendor/fetch.sh [LOCK FOLDER]     another lock than vendor/lock, and where its NAMEs are put
#
# An archive is taken from the first of these places that has it:
#   1. the cache: $PRESENCE_VENDOR_CACHE, default presence/vendor in the user's cache directory
#   2. vendor/, where someone has put it by hand (no network, another distribution)
#   3. Debian: `apt-get source` through a private apt state, with the mirror this machine uses
# What 2 and 3 find is copied to the cache. A file with the wrong hash is refused, never replaced.
set -eu
cd "$(dirname "$0")/.."
umask 022

release=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
lock=${1:-vendor/lock}
src=${2:-build/vendor/src}
cache=${PRESENCE_VENDOR_CACHE:-${XDG_CACHE_HOME:-${HOME:-$PWD/build}/.cache}/presence/vendor}

# Prints its arguments, one a line, as an error, and ends the script.
die() {
    printf 'vendor/fetch.sh: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "$line" >&2; done
    exit 1
}

# Prints the SHA-256 of a file.
sha256() {
    sha256sum <"$1" | cut -c 1-64
}

# Prints "NAME VERSION FILE SHA-256" for every archive.
archives() {
    sed -n 's/^archive  *//p' "$lock"
}

# Ends the script unless the file at $1 has the hash $2.
check() {
    found=$(sha256 "$1")
    [ "$found" = "$2" ] && return
    die "wrong content, refused: $1" "SHA-256 expected $2" "SHA-256 found    $found" \
        "Remove that file, or put the right one in its place, then try again."
}

# Puts a checked file into the cache, in one step, so that nobody can see half of it.
keep() {
    mkdir -p "$cache"
    cp "$1" "$cache/.$2.$$"
    mv "$cache/.$2.$$" "$cache/$2"
}

# Brings file $1 with hash $2 into the cache from places 1 and 2; false when neither has it.
find_archive() {
    if [ -f "$cache/$1" ]; then
        check "$cache/$1" "$2"
    elif [ -f "vendor/$1" ]; then
        check "vendor/$1" "$2"
        keep "vendor/$1" "$1"
    else
        return 1
    fi
}

# Prints "FILE SHA-256" for every archive that places 1 and 2 lack.
missing() {
    archives | while read -r _ _ file hash; do
        find_archive "$file" "$hash" || echo "$file $hash"
    done
}

# Ends the script: $1 says why the archives cannot be had, the rest says what to do about it.
give_up() {
    reason=$1
    echo "vendor/fetch.sh: $reason" >&2
    echo "Put these files into $PWD/vendor/ (or $cache/), then try again:" >&2
    missing | while read -r file hash; do echo "  $hash  $file" >&2; done
    exit 1
}

# Prints the address of the Debian mirror in this machine's apt configuration: the entry for the
# running release itself, not the one for its security updates.
mirror() {
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release | tr -d '"')
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$list" ] && sed 's/#.*//; s/\[[^]]*\]//' "$list"
    done | awk -v c="$codename" '($1 == "deb" || $1 == "deb-src") && $3 == c { print $2 }'
    for list in /etc/apt/sources.list.d/*.sources; do
        [ -f "$list" ] && grep -v '^#' "$list" && echo
    done | awk -v c="$codename" '
        function finish(   n, i, suite) {
            n = split(field["suites"], suite, " ")
            for (i = 1; i <= n; i++)
                if (suite[i] == c && field["enabled"] != "no") print field["uris"]
            split("", field)
        }
        /^[ \t]*$/ { finish(); next }
        /^[^ \t]/  { name = tolower($0); sub(/:.*/, "", name); sub(/^[^:]*:[ \t]*/, "") }
                   { field[name] = field[name] (field[name] == "" ? "" : " ") $0 }
        END        { finish() }' | tr ' ' '\n'
}

# Downloads what is missing with apt-get, or ends the script and says why it cannot.
fetch_with_apt() {
    command -v apt-get >/dev/null ||
        give_up "sources are missing and there is no apt-get to fetch them."
    [ -f "$keyring" ] || give_up "sources are missing and this machine lacks Debian's archive keys."
    from=$(mirror | grep . | head -n 1) || true
    [ -n "$from" ] || give_up "sources are missing and no Debian mirror is set up on this machine."

    state=$PWD/$(dirname "$src")/apt
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/files"
    echo "deb-src [signed-by=$keyring] $from $release main" >"$state/sources.list"
    set -- -qq -o Dir::State="$state" -o Dir::State::Lists="$state/lists" \
        -o Dir::State::status=/var/lib/dpkg/status \
        -o Dir::Cache="$state/cache" -o Dir::Etc::SourceList="$state/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null -o Acquire::Languages=none -o APT::Sandbox::User=root \
        -o Acquire::Retries=3
    echo "vendor/fetch.sh: fetching the sources from Debian" >&2
    apt-get "$@" update >"$state/log" 2>&1 || {
        cat "$state/log" >&2
        give_up "apt-get cannot read Debian's $release sources."
    }
    archives | while read -r name version file hash; do
        case $needed in *"$file $hash"*) ;; *) continue ;; esac
        case $file in *.debian.tar.*) part=--diff-only ;; *) part=--tar-only ;; esac
        (cd "$state/files" && apt-get "$@" source --download-only "$part" "$name=$version") \
            </dev/null >"$state/log" 2>&1 || {
            cat "$state/log" >&2
            grep -q "find version\|navailable version\|nable to find a source" "$state/log" &&
                give_up "Debian $release no longer offers $name $version, which $lock pins."
            give_up "apt-get could not fetch $file."
        }
        [ -f "$state/files/$file" ] ||
            give_up "Debian $release no longer offers $file, which $lock pins."
        check "$state/files/$file" "$hash"
        keep "$state/files/$file" "$file"
    done
    rm -rf "$state"
}

# Unpacks and patches everything into $src; the stamp is written last.
unpack() {
    rm -rf "$src"
    archives | while read -r name _ file _; do
        case $file in *.debian.tar.*) into=$src/$name.debian ;; *) into=$src/$name ;; esac
        mkdir -p "$into"
        tar -xf "$cache/$file" -C "$into" --no-same-owner --strip-components=1
    done
    sed -n 's/^patch  *//p' "$lock" | while read -r name file; do
        patch -s -d "$src/$name" -p1 <"$src/$name.debian/patches/$file" ||
            die "patch does not apply: $name $file"
    done
    sha256 "$lock" >"$src/.stamp"
}

[ "$(cat "$src/.stamp" 2>/dev/null)" = "$(sha256 "$lock")" ] && exit 0
needed=$(missing)
[ -z "$needed" ] || fetch_with_apt
unpack
