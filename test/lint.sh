# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# The checks of `./build.sh lint`: each prints the problems it finds, or nothing.
# Sourced by build.sh; does nothing by itself.

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

# Static analysis of the program; what it finds by guessing is left out, and legacyUninitvar, which
# does not see that an array is written to by who gets it inside a struct (WHY).
check_cppcheck() {
    [ -f "$SOURCE" ] || return 0
    cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
        --max-configs=1 --suppress=missingIncludeSystem --suppress=internalAstError \
        --suppress=legacyUninitvar \
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

# Every JavaScript file parses, as a script or as a module: in one node, which takes long to start.
check_javascript() {
    # shellcheck disable=SC2016
    our_texts '\.m?js$' | NODE_NO_WARNINGS=1 node --experimental-vm-modules -e '
        const fs = require("fs"), vm = require("vm");
        const names = ["exports", "require", "module", "__filename", "__dirname"];
        for (const file of fs.readFileSync(0, "utf8").split("\0").filter(Boolean)) {
            const text = fs.readFileSync(file, "utf8").replace(/^#!.*/, "");
            const parses = (make) => { try { make(); return true; } catch { return false; } };
            if (!parses(() => vm.compileFunction(text, names)) &&
                !parses(() => new vm.SourceTextModule(text)))
                console.log(`${file}: does not parse`);
        }'
}

# A call points up, so presence.c has no prototypes; one that a true cycle needs has a comment that
# says so above it, or the reason behind it. Names in capitals are macros.
check_prototypes() {
    ctags -x --sort=no --languages=C --kinds-C=p "$SOURCE" | awk -v file="$SOURCE" '
        NR == FNR { text[FNR] = $0; next }
        $1 !~ /^[A-Z0-9_]+$/ && text[$3 - 1] !~ /cycle.*\*\/$/ && text[$3] !~ /; \/\* .*\*\/$/ {
            print file ":" $3 ": prototype of " $1 " without a reason"
        }' "$SOURCE" -
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

# A function has at most 120 lines; one of more than 12 says why it is so in a comment above it.
check_functions() {
    functions | awk -F '\t' -v file="$SOURCE" '
        $2 > 120 { print file ":" $1 ": " $4 " has " $2 " lines" }
        $2 > 12 && $3 == "" { print file ":" $1 ": " $4 " has no comment above it" }'
}

# Prints LINE, LENGTH, COMMENT and NAME of every function, separated by tabs, in the order of lines.
# COMMENT is the first line of the one directly above, or empty.
functions() {
    ctags -o - --sort=no --languages=C --kinds-C=f --fields=+ne --excmd=number "$SOURCE" |
        sed -n 's/^\([^\t]*\)\t\([^\t]*\)\t.*line:\([0-9]*\).*end:\([0-9]*\).*$/\3 \4 \1/p' |
        sort -n | awk '
            NR == FNR { text[FNR] = $0; next }
            {
                top = $1
                while (text[top - 1] ~ /^(static|const|inline|__attribute__|[a-z_]+ \**$)/) top--
                comment = ""
                if (text[above = top - 1] ~ /\*\/[ \t]*$/) {
                    while (above > 1 && text[above] !~ /^\/\*/) above--
                    comment = text[above]
                }
                print $1 "\t" $2 - top + 1 "\t" comment "\t" $3
            }' "$SOURCE" -
}

# The first section that knows threads: a comment of a longer function there says who may call it,
# in brackets: "[hub]", "[hub; table_lock]", "[listener, worker]"; "[owner]" has the connection.
FIRST_THREADED='Event loop'
TAGS='hub|worker|writer|listener|reader|main|any|webhook|acme|engine|resolver|handshake|io|owner'
# A section is to have some 650 lines, and not more than these.
SECTION_LINES=720

# Every function of more than 12 lines in those sections has such a tag.
check_tags() {
    local first
    first=$(grep -nE "^/\* =+ [0-9]+\. $FIRST_THREADED =" "$SOURCE" | cut -d : -f 1)
    [ -n "$first" ] || die "$SOURCE has no section \"$FIRST_THREADED\", see FIRST_THREADED"
    functions | awk -F '\t' -v file="$SOURCE" -v first="$first" -v tags="$TAGS" '
        BEGIN { tag = "^/\\* +\\[(" tags ")([,;] [a-z_.]+)*\\] " }
        $1 > first && $2 > 12 && $3 !~ tag {
            print file ":" $1 ": " $4 " does not say who may call it"
        }'
}

# Every struct and union has a comment above it, or above the lines that it stands under.
check_structs() {
    awk -v file="$SOURCE" '
        /^$/ { said = 0 }
        /^\/\*/ { said = 1 }
        /^(static |typedef )?(const )?(struct|union) [a-z_0-9]+ *\{/ && !said {
            print file ":" FNR ": no comment above " $0
        }' "$SOURCE"
}

# A section can be read in one sitting.
check_section_lines() {
    awk -v file="$SOURCE" -v most="$SECTION_LINES" '
        function finish() {
            if (name != "" && FNR - first > most)
                print file ":" first ": \"" name "\" has " FNR - first " lines"
        }
        /^\/\* =+ [0-9]+\. / { finish(); first = FNR; name = $0; gsub(/^[\/* =]+| =+$/, "", name) }
        END { FNR++; finish() }' "$SOURCE"
}

# presence.c is as clang-format 14 writes it, by .clang-format; others break lines differently.
check_format() {
    local tool=clang-format-14
    command -v $tool >/dev/null || tool=clang-format
    if $tool --version | grep 'version 14\.' >/dev/null; then
        $tool --dry-run -Werror "$SOURCE" 2>&1 | grep 'clang-format-violations' || :
    else
        echo "lint: the format is not checked: $($tool --version), not 14" >&3
    fi
}

# No line of the program is too long for a window; no line ends in blanks or defers work.
check_lines() {
    local code='^(presence\.c|(test/)?[a-z]+\.sh|vendor/.*\.(c|h|sh)|\.ci/run'
    code+='|test/(unit(/.*)?|fuzz/.*)\.[ch])$'
    local text='(\.(c|h|sh|js|mjs|ts|css|html|yml|[1-8])|^\.ci/run)$'
    our_texts "$code" | xargs -0 grep -nE '^.{101,}' |
        sed -E 's/^([^:]*:[0-9]+):.*/\1: over 100 columns/'
    our_texts "$text" | xargs -0 grep -nE '[[:blank:]]+$' | sed 's/$/ (blanks at the end)/'
    our_texts "$text" | xargs -0 grep -nE "(//|\*|#).*\<(TO""DO|FIX""ME|X""XX)\>" |
        sed 's/$/ (do it, or open an issue)/'
    return 0
}

# What is built, installed or sent to browsers names its licence in its first lines.
check_licence() {
    local code='^(presence\.c|build\.sh|\.ci/run|vendor/.*\.(c|h|sh)|test/(run|lint)\.sh'
    code+='|web/.*\.(js|ts|css|html|svg))$'
    our_texts "$code" | while read -r -d '' file; do
        head -n 5 "$file" | grep -E 'SPDX-License-Identifier: MIT( |$)' >/dev/null ||
            echo "$file: no SPDX-License-Identifier"
    done
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

# All of it.
check_all() {
    check "gcc" check_compiler gcc
    check "clang" check_compiler clang
    check "cppcheck" check_cppcheck
    check "shellcheck" shellcheck -x -a build.sh vendor/fetch.sh .ci/run
    check "manual pages" check_manual
    check "JavaScript" check_javascript
    if [ -f "$SOURCE" ]; then
        check "prototypes" check_prototypes
        check "sections" check_sections
        check "functions" check_functions
        check "format" check_format 3>&2
        check "functions that do not say who may call them" check_tags
        check "structs without a comment" check_structs
        check "sections of more than $SECTION_LINES lines" check_section_lines
    fi
    check "lines" check_lines
    check "licence" check_licence
    check "layout" check_layout
    check "places" check_places
}
