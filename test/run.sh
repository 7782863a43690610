# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# The test programs, the queue of jobs that runs tests side by side, and what counts their results.
# Sourced by build.sh; does nothing by itself. Which steps run is decided in task_test there.

# ==== Test programs ===============================================================================
# Builds the unit tests in a variant: $1 variant, $2 output.
build_unit() {
    build_program "$1" test/unit.c "$2" -lcmocka
}

# Builds the program that has all fuzzers.
build_fuzzers() {
    build_program fuzz test/fuzz/fuzz.c build/fuzzers
}

# Builds a program that counts which of its lines run: $1 source, $2 name, then further flags.
build_coverage() {
    local data=$PWD/build/coverage/$2
    build_program coverage "$1" "build/$2-coverage" \
        "-DCOVERAGE_DIR=\"$data\"" test/coverage.c -lgcov "${@:3}"
}

# Prints the names of the fuzzers.
fuzzers() {
    local file
    for file in test/fuzz/fuzz_*.c; do
        file=${file##*/fuzz_}
        echo "${file%.c}"
    done
}

# Builds valkey-server, the second engine that clusters are tested with. Where its source is not to
# be had there is none, and what needs it is skipped; the log says why.
build_valkey() {
    local server=build/valkey/valkey-server src=build/valkey/src/valkey
    vendor/fetch.sh test/lock build/valkey/src || return 0
    [ ! $server -nt build/valkey/src/.stamp ] || [ ! $server -nt test/run.sh ] || return 0
    make -C $src/src -j "$JOBS" valkey-server MALLOC=libc USE_SYSTEMD=no BUILD_TLS=yes \
        OPTIMIZATION=-O1 && cp $src/src/valkey-server $server
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

# ==== Results, and jobs side by side ==============================================================

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
# step is done when all of its jobs are; a log ends with the job's exit status and seconds. Files of
# tests wait most of the time, so there is a queue of its own for what never does: one of that runs
# beside them, and so the processors are busy to the end, and the files are not in each other's way.
QUEUE=()
BUSY_QUEUE=()
BUSY=0 # how many of those run
NEXT=
BUILT=" "
declare -A RUNNING=() LEFT=() LOGS=() SINCE=()

# Adds a job: $1 its step, $2 its log, then the command.
queue() {
    QUEUE+=("$(printf '%q ' "$@")")
    LEFT[$1]=$((${LEFT[$1]:-0} + 1))
    LOGS[$1]+="$2 "
}

# The same for a job that never waits.
queue_busy() {
    queue "$@"
    BUSY_QUEUE+=("${QUEUE[-1]}")
    unset 'QUEUE[-1]'
}

# Starts a job: $1 whether it is a busy one (1 or 0), then as it was queued.
start_job() {
    local busy=$1 step=$2 log=$3
    shift 3
    SINCE[$step]=${SINCE[$step]:-$SECONDS}
    ("$@") >"$log" 2>&1 </dev/null &
    RUNNING[$!]="$step $log $SECONDS $busy"
    BUSY=$((BUSY + busy))
}

# Sets NEXT to the job that may be started now, with whether it is a busy one; to nothing when some
# have to end before: $1 how many run at once.
take_next() {
    NEXT=
    [ ${#RUNNING[@]} -lt "$1" ] || return 0
    if [ ${#BUSY_QUEUE[@]} -gt 0 ] && [ $BUSY -lt $((${#QUEUE[@]} > 0 ? 1 : JOBS)) ]; then
        NEXT="1 ${BUSY_QUEUE[0]}" BUSY_QUEUE=("${BUSY_QUEUE[@]:1}")
    elif [ ${#QUEUE[@]} -gt 0 ]; then
        NEXT="0 ${QUEUE[0]}" QUEUE=("${QUEUE[@]:1}")
    fi
}

# Waits for a job to end, and counts its step if that is done: $1 what counts.
end_job() {
    local pid status=0 step log since busy
    wait -n -p pid || status=$?
    read -r step log since busy <<<"${RUNNING[$pid]}"
    unset "RUNNING[$pid]"
    BUSY=$((BUSY - busy))
    echo "# exit $status $((SECONDS - since))" >>"$log"
    LEFT[$step]=$((LEFT[$step] - 1))
    [ "${LEFT[$step]}" -gt 0 ] || "$1" "$step" $((SECONDS - SINCE[$step]))
}

# Runs the queues: $1 how many jobs at once, $2 what counts a step that is done.
run_queue() {
    set -m
    trap 'trap - EXIT; stop_jobs' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    while [ $((${#QUEUE[@]} + ${#BUSY_QUEUE[@]} + ${#RUNNING[@]})) -gt 0 ]; do
        take_next "$1"
        if [ -n "$NEXT" ]; then eval "start_job $NEXT"; else end_job "$2"; fi
    done
    trap - EXIT INT TERM
    set +m
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
    local seconds=$TEST_TIMEOUT
    [ -z "${PRESENCE_THOROUGH:-}" ] || seconds=$LONG_TIMEOUT # its models go ten times as far
    sanitized timeout "$seconds" "build/$1"
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

# Lets a fuzzer search for a short while, each time anew: its log has the seed of it. Those of one
# small function make ten thousand runs a second and find nothing new after half of the time, so
# they take all of it only where everything is wanted.
run_fuzzer_briefly() {
    local seconds=${FUZZ_SECONDS:-10}
    case ${PRESENCE_THOROUGH:+all}$1 in
    frame | head | hosts | json | response | token | uri) seconds=$(((seconds + 1) / 2)) ;;
    esac
    rm -rf "build/fuzz/short/$1"
    run_fuzzer "$1" "$seconds" "$TEST_TIMEOUT" "build/fuzz/short/$1"
}

# Runs a file of tests in JavaScript: $1 program, $2 variant, $3 file, $4 seconds it may take.
run_javascript() {
    PRESENCE_BIN=$PWD/$1 PRESENCE_VARIANT=$2 sanitized timeout -k 5 "$4" \
        node --test-reporter=tap "$3"
}

# The same for a file of test/full, which may also start the program under sanitizers.
run_long() {
    ! built presence-asan || export PRESENCE_BIN_ASAN=$PWD/build/presence-asan
    [ ! -x build/valkey/valkey-server ] || export PRESENCE_VALKEY=$PWD/build/valkey/valkey-server
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

# Prints those of some files ($2...) that run in a variant ($1) when no step is named. A file says
# so in a line "// Variants: release asan tsan"; without such a line it runs under asan. Each check
# is made once: under asan, which sees most; in the released program where its bytes, descriptors,
# system calls or time are counted, or the C library is part of it; under tsan where threads cross.
chosen_files() {
    local variant=$1 file line
    shift
    for file; do
        line=" $(sed -n 's|^// Variants: ||p' "$file") "
        [[ $line =~ ^" "(" "|((release|asan|tsan)" ")+)$ ]] || die "$file: Variants:$line"
        [[ $line != "  " ]] || line=" asan "
        [[ $line != *" $variant "* ]] || echo "$file"
    done
}

# Those that took longest when they were measured, which begin first.
LONGEST="web/admin-browser web/admin-streams web/client-browser web/admin-real web/demo-browser
    web/client-limits web/admin-crowd web/react18 web/react19 web/chaos web/examples web/package
    integration/acme integration/cluster-webhook integration/cluster-stats integration/webhook
    integration/chromium integration/cluster integration/watch-slow integration/cluster-tools
    integration/install integration/stalled-server integration/tls-interleaved
    integration/slow-disk-stop integration/start-refusals integration/grace
    integration/stepped-clock integration/slow-watcher integration/admin-login
    integration/events integration/crash integration/dead-readers integration/positions
    integration/fake-engine integration/upgrade"

# Prints some files ($@), the longest first: those of LONGEST, then the largest.
longest_first() {
    local name
    {
        for name in $LONGEST; do
            [[ " $* " != *" test/$name.test.js "* ]] || echo "test/$name.test.js"
        done
        ls -S "$@"
    } | awk '!seen[$0]++'
}

# Queues a step of tests, unless what it needs could not be built: $1 its name, $2 whether only what
# runs by default is wanted of it.
queue_step() {
    local name=$1 chosen=$2 variant=${1#*-} program file files run=run_javascript
    case $name in
    unit*)
        ! built "$name" || queue_busy "$name" "build/test/$name.log" run_unit "$name"
        return
        ;;
    fuzz)
        for file in $(fuzzers); do
            ! built fuzzers || queue_busy "fuzz_$file" "build/test/fuzz_$file.log" \
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
    if $chosen && [[ $name = integration* ]]; then
        mapfile -t files < <(chosen_files "$variant" "${files[@]}")
    fi
    rm -rf "build/test/$name"
    mkdir -p "build/test/$name"
    while read -r file; do
        queue "$name" "build/test/$name/$(basename "$file").log" \
            $run "build/$program" "$variant" "$file" "$TEST_TIMEOUT"
    done < <(longest_first "${files[@]}")
}

# ==== Coverage ====================================================================================

# Adds up what the processes of a program counted, and prints it line by line as gcov does: $1 its
# name. A process that was killed left an empty file, or half of one; it counts for nothing.
coverage_of() {
    local dir=build/coverage/$1 sum=build/coverage/$1/sum one first=yes
    for one in "$dir"/*-*; do
        [ -s "$one/program.gcda" ] || continue
        if [ $first = yes ]; then
            first=no
            cp -r "$one" "$sum"
        elif gcov-tool merge "$sum" "$one" -o "$sum.new" 2>/dev/null; then
            rm -r "$sum"
            mv "$sum.new" "$sum"
        fi
    done
    cp "build/obj/$1-coverage.gcno" "$sum/program.gcno"
    gcov --stdout "$sum/program.gcda" 2>/dev/null
}

# Prints how much of presence.c was reached by any of the programs, and writes what was not.
report_coverage() {
    local all never
    { coverage_of unit && coverage_of presence; } | awk -F : -v source="$SOURCE" '
        $2 + 0 == 0 { if ($3 == "Source") ours = $4 ~ "(^|/)" source "$"; next }
        !ours || $1 ~ /-$/ { next }
        { line = $2 + 0; code[line]; if ($1 !~ /[#=]$/) reached[line] }
        END { for (line in code) print line, line in reached }' |
        sort -n >build/coverage/lines
    awk -v source="$SOURCE" '
        NR == FNR { never[$1] = !$2; next }
        never[FNR] { print source ":" FNR ": " $0 }' build/coverage/lines "$SOURCE" \
        >build/coverage/never-reached.txt
    functions | awk -F '\t' -v source="$SOURCE" '
        NR == FNR { split($0, l, " "); at[l[1]] = l[2] + 1; next }
        {
            code = reached = 0
            for (i = $1; i < $1 + $2; i++) { code += i in at; reached += at[i] > 1 }
            if (code && !reached) print source ":" $1 ": " $4
        }' build/coverage/lines - >build/coverage/never-called.txt
    all=$(wc -l <build/coverage/lines)
    never=$(wc -l <build/coverage/never-reached.txt)
    awk -v source="$SOURCE" -v all="$all" -v never="$never" 'BEGIN {
        printf "%s: %.1f %% of %d lines are reached\n", source, (all - never) * 100 / all, all
    }'
    echo "the others: build/coverage/never-reached.txt ($never), never-called.txt" \
        "($(wc -l <build/coverage/never-called.txt) functions)"
    [ $(((all - never) * 100)) -ge $((all * MIN_COVERAGE)) ] ||
        die "tests reach less than $MIN_COVERAGE % of $SOURCE"
}
