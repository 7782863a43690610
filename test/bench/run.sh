#!/usr/bin/env bash
# Measures the presence server beside its peers and prints a table. Called by ./build.sh bench.
#
#   test/bench/run.sh                everything, about six minutes
#   test/bench/run.sh quick          a short version, 90 seconds: fewer rounds, no cold start
#   test/bench/run.sh [quick] NAME   only these: size idle memory held connect heartbeat syscalls
#                                    ping get fanout everybody silent wss-memory handshakes
#                                    storm cold cluster
#
# cluster (cluster.js) needs redis-server, takes two minutes, and is only measured when it is named.
#
# Times mean something only beside a peer measured in the same run, so every row of that kind has a
# ratio; the servers take turns, and with more than one round the median counts. Memory is absolute.
#
# The peers: bare (bare.c, the least an epoll server can cost; its changes are a loop of send()),
# civetweb (civetweb_handler.c, a trivial handler of the library we embed), ws (ws_server.mjs, npm
# `ws` on Node), watch (watch_server.mjs, the same with followers); for TLS openssl (openssl s_server)
# and tls_bare (tls_bare.c, the least a server can cost with our Mbed TLS).
#
# Exit: 0 when all was measured, even if a bar is MISSED; 1 when something could not be measured.
# Each single result stays in build/bench/results.jsonl, what the servers said in build/bench/*.log.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LC_ALL=C

HERE=test/bench
OUT=build/bench
PRESENCE=${PRESENCE_BIN:-build/presence}
TMP=$(mktemp -d "${TMPDIR:-/tmp}/presence-bench.XXXXXX")
ROWS=$TMP/rows
STARTED=() # processes to end, by id
FAILED=0   # something could not be measured
RESULT=    # the last line of JSON of the load generator
declare -A PID PORT # of the servers that run, by name
declare -A VALUES   # what turns() has collected, by name and field
CERTIFICATE=        # PREFIX of PREFIX.crt and PREFIX.key: presence and control listen for TLS too
OPTIONS=()          # more of them for presence
KEEP=0              # 1: a server starts with the data of the last one of its name
SERVER_ON=()        # command before a server's, to place it on a processor
CLIENT_ON=()        # the same for the load generator

# ==== Small things ================================================================================

# Says what is going on, on stderr, so that the table stands alone on stdout.
say() {
    printf '%s\n' "bench: $*" >&2
}

# Ends a process by its id: politely, and after five seconds not.
end_process() {
    local tries=0
    kill "$1" 2>/dev/null || return 0
    while kill -0 "$1" 2>/dev/null && [ "$tries" -lt 100 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# Ends every process we started and removes the temporary data.
# shellcheck disable=SC2317
cleanup() {
    local pid
    trap - EXIT INT TERM
    for pid in "${STARTED[@]}"; do end_process "$pid"; done
    rm -rf "$TMP"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# Prints the value of an arithmetic expression, with as many decimals as it deserves.
calc() {
    awk "BEGIN { v = $1; d = v == int(v) || v >= 100 ? 0 : v >= 10 ? 1 : v >= 1 ? 2 : 3
        printf \"%.*f\", d, v }"
}

# Prints the middle one of its arguments.
median() {
    printf '%s\n' "$@" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# Prints field $1 of the last result, or nothing.
field() {
    sed -n 's/.*"'"$1"'":"\{0,1\}\([^,"}]*\).*/\1/p' <<<"$RESULT"
}

# Adds a row: what, ours, peers, ratio, bar, and an awk condition that says whether it is met.
row() {
    local met=-
    set -- "$1" "$2" "${3:--}" "$4" "$5" "${6:-}"
    [ -z "$6" ] || met=$(awk "BEGIN { print ($6) ? \"yes\" : \"MISSED\" }")
    printf '%s|%s|%s|%s|%s|%s\n' "$1" "$2" "$3" "$4" "$5" "$met" >>"$ROWS"
    say "$1: $2 (peers $3, ratio $4, bar $5, met $met)"
}

# Adds a row that says why something could not be measured.
unmeasured() {
    FAILED=1
    row "$1" "not measured" "$2" - -
}

# Runs the load generator; RESULT is its line. False when it failed.
load() {
    local status=0 pid
    "${CLIENT_ON[@]}" "$OUT/load" "$@" >"$TMP/result" 2>>"$OUT/load.log" 8>&- &
    pid=$!
    STARTED+=("$pid")
    wait "$pid" || status=$?
    RESULT=$(tail -n 1 "$TMP/result")
    printf '{"args":"%s","status":%d,"result":%s}\n' "${*//\"/}" "$status" "${RESULT:-null}" \
        >>"$OUT/results.jsonl"
    return "$status"
}

# ==== Servers =====================================================================================

# Sets COMMAND, the command line of a server.
set_command() {
    case $1 in
    presence | control)
        # all the load has one address: it is counted, but never too much
        COMMAND=("$PRESENCE" --listen 127.0.0.1:0 --data "$TMP/$1"
            --max-pending-per-address 1000000 "${OPTIONS[@]}")
        [ -z "$CERTIFICATE" ] || COMMAND+=(--tls-listen 127.0.0.1:0
            --tls-cert "$CERTIFICATE.crt" --tls-key "$CERTIFICATE.key")
        ;;
    openssl)
        COMMAND=(openssl s_server -accept 127.0.0.1:0 -www -num_tickets 1
            -cert "$CERTIFICATE.crt" -key "$CERTIFICATE.key")
        ;;
    tls_bare) COMMAND=("$OUT/tls_bare" "$CERTIFICATE.crt" "$CERTIFICATE.key") ;;
    bare) COMMAND=("$OUT/bare") ;;
    civetweb) COMMAND=("$OUT/civetweb_handler" 0 "${THREADS:-50}") ;;
    ws) COMMAND=(node "$HERE/ws_server.mjs") ;;
    watch) COMMAND=(node "$HERE/watch_server.mjs") ;;
    esac
}

# True when presence has an option.
has_option() {
    "$PRESENCE" --help | grep -q -e "^  $1\( \|\$\)"
}

# Sets CERTIFICATE to one of a kind, ec or rsa, made when it is first asked for. False, and the row
# $1 not there yet, when presence knows nothing of TLS.
use_certificate() {
    local key=(-newkey rsa:2048)
    if ! has_option --tls-listen; then
        row "$1" "not there yet" "TLS comes later" - -
        return 1
    fi
    [ "$2" = rsa ] || key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1)
    CERTIFICATE=$TMP/$2
    [ -f "$CERTIFICATE.crt" ] || openssl req -x509 "${key[@]}" -nodes -days 30 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout "$CERTIFICATE.key" -out "$CERTIFICATE.crt" \
        2>/dev/null
}

# Prints the port that a server says in its log that it listens on: the one for TLS if there is one.
port_in() {
    sed -n 's/.*\(listening on\|ACCEPT\) .*:\([0-9][0-9]*\).*/\2 &/p' "$1" |
        awk -v tls="$2" '!tls || !/\(http\)/ { print $1; exit }'
}

# Starts a server afresh and waits up to 30 s until it says where it listens.
start() {
    local name=$1 log=$OUT/$1.log tries=0 tls=$CERTIFICATE
    [ "$KEEP" = 1 ] || rm -rf "${TMP:?}/$name"
    set_command "$@"
    : >"$log" # or the port of the one before would be read
    "${SERVER_ON[@]}" "${COMMAND[@]}" >"$log" 2>&1 8>&- &
    PID[$name]=$!
    STARTED+=("${PID[$name]}")
    PORT[$name]=
    while [ -z "${PORT[$name]}" ]; do
        PORT[$name]=$(port_in "$log" "$tls")
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] && kill -0 "${PID[$name]}" 2>/dev/null || return 1
        sleep 0.05
    done
}

# Ends servers by name.
stop() {
    local name
    for name; do
        [ -z "${PID[$name]:-}" ] || end_process "${PID[$name]}"
        PID[$name]=
    done
}

# Starts servers for the row $1, which is unmeasured when one does not come up.
start_for() {
    local what=$1 name
    shift
    for name; do
        start "$name" && continue
        unmeasured "$what" "$name does not start: $(tail -n 1 "$OUT/$name.log")"
        return 1
    done
}

# Runs the load generator against a server: $1 name, then its arguments.
load_on() {
    local name=$1
    shift
    load "$@" --port "${PORT[$name]}" --pid "${PID[$name]}"
}

# Waits up to 10 s until a server uses next to no CPU: what came before is then behind it.
quiet() {
    local before tries=0
    while [ "$tries" -lt 20 ]; do
        load measure --pid "${PID[$1]}" || return 0
        before=$(field cpu_seconds)
        sleep 0.3
        load measure --pid "${PID[$1]}" || return 0
        [ "$(calc "$(field cpu_seconds) - $before < 0.01")" = 0 ] || return 0
        tries=$((tries + 1))
    done
}

# Lets servers take turns: $1 row, $2 rounds, $3 servers, $4 fields to collect, then the load. The
# median of a field is then what value() prints. False, and the row unmeasured, when a load fails.
turns() {
    local what=$1 rounds=$2 servers=$3 fields=$4 round name key
    shift 4
    VALUES=()
    for round in $(seq "$rounds"); do
        for name in $servers; do
            if ! load_on "$name" "$@"; then
                unmeasured "$what" "$name, round $round: $(field error)"
                return 1
            fi
            for key in $fields; do VALUES[$name.$key]+=" $(field "$key")"; done
            [ "$name" != presence ] || [ "$rounds" = 1 ] || quiet presence
        done
    done
}

# Prints the median of what turns() has collected: $1 server, $2 field.
value() {
    # shellcheck disable=SC2086
    median ${VALUES[$1.$2]}
}

# Adds a row from turns(): $1 what, $2 field, $3 the peers, the first of which ours is divided by,
# $4 bar, $5 the awk condition in which `ratio` is the ratio.
row_of_turns() {
    local name first=${3%% *} peers='' ratio condition=${5:-}
    for name in $3; do peers+="${peers:+, }$name $(value "$name" "$2")"; done
    ratio=$(calc "$(value presence "$2") / $(value "$first" "$2")")
    row "$1" "$(value presence "$2")" "$peers" "$ratio of $first" "$4" "${condition//ratio/$ratio}"
}

# ==== Measurements ================================================================================

# The binary as it is shipped.
measure_size() {
    local bytes
    bytes=$(wc -c <"$PRESENCE" | tr -d ' ')
    row "binary, bytes" "$bytes" - - "2000000" "$bytes <= 2000000"
}

# The process after its start, without a client.
measure_idle() {
    start_for "idle PSS" presence || return 0
    sleep 1
    if load measure --pid "${PID[presence]}"; then
        row "idle PSS, KiB" "$(field pss_now_kb)" - - "2048" "$(field pss_now_kb) <= 2048"
    else
        unmeasured "idle PSS" "/proc/PID/smaps_rollup is not readable"
    fi
    stop presence
}

# Anonymous memory of 10,000 idle users, and what is left of it when they have gone.
measure_memory() {
    local what="bytes per idle user (10,000)" name peers='' ours left held
    for name in presence bare ws civetweb; do
        held=10000
        if [ "$name" = civetweb ]; then # it needs a thread for each
            [ "$QUICK" = 0 ] || continue
            held=1000
        fi
        THREADS=$((held + 10)) start_for "$what" "$name" || return 0
        sleep 0.3
        if ! load_on "$name" hold -n "$held" -c 100 --settle 0.5 --clean; then
            unmeasured "$what" "$name: $(field error)"
            return 0
        fi
        if [ "$name" = presence ]; then
            ours=$(field bytes_per_connection)
            sleep 2 # the store learns of it within a sync interval
            quiet presence
            load measure --pid "${PID[presence]}" || true
            left=$(field anonymous_now_kb)
        else
            peers+="${peers:+, }$name $(field bytes_per_connection)"
        fi
        stop "$name"
    done
    row "$what" "$ours" "$peers" - "300" "$ours <= 300"
    row "anonymous KiB when they have gone" "$left" - - -
}

# CPU time of every thread while 15,000 users are held and silent.
measure_held() {
    local workers seconds=10
    [ "$QUICK" = 0 ] || seconds=2
    start_for "15,000 held" presence || return 0
    if load_on presence hold -n 15000 --seconds "$seconds" --settle 0.5; then
        # Workers are CivetWeb's pool. They hold no socket, so they must not have run at all.
        workers=$(field threads | tr ' ' '\n' |
            awk -F: 'tolower($1) ~ /worker/ { n++; s += $3 } END { print n ? s : -1 }')
        row "15,000 held: CPU s of workers in $seconds s" "$workers" - - "0.001" \
            "$workers >= 0 && $workers <= 0.001"
        row "15,000 held: CPU s (thread:count:s)" "$(field cpu_seconds)" "$(field threads)" - -
        row "15,000 held: rate at which they came" "$(field connects_per_second)" - - -
    else
        unmeasured "15,000 held" "$(field error)"
    fi
    stop presence
}

# New connections a second: upgraded, greeted, closed; 200 at a time.
measure_connect() {
    local what="new connections/s" rounds=3 count=50000
    [ "$QUICK" = 0 ] || rounds=1 count=20000
    if start_for "$what" presence bare ws &&
        turns "$what" "$rounds" "presence bare ws" "connects_per_second connect_cpu_us" \
            connect -n "$count" -c 200 --settle 0.2; then
        row_of_turns "$what" connects_per_second "bare ws" "0.8" "ratio >= 0.8"
        row_of_turns "CPU us per new connection" connect_cpu_us "bare ws" -
    fi
    stop presence bare ws
}

# CPU per 100,000 heartbeats of 10,000 users, one a second each: as bare text, and as JSON.
measure_heartbeat() {
    local what kind rounds=4 seconds=2
    [ "$QUICK" = 0 ] || rounds=1 seconds=1.5
    for kind in text json; do
        what="CPU s per 100,000 heartbeats ($kind)"
        # The bar is uWebSockets, which needs 1.2 times what the bare server does.
        if start_for "$what" presence bare ws &&
            turns "$what" "$rounds" "presence bare ws" "cpu_per_100k answer_p99_ms" hold -n 10000 \
                --rate 10000 --seconds "$seconds" --beat "$kind" --settle 0.4 --clean; then
            row_of_turns "$what" cpu_per_100k "bare ws" "1.2" "ratio <= 1.2"
            row_of_turns "their p99, ms" answer_p99_ms "bare ws" -
        fi
        stop presence bare ws
        [ "$QUICK" = 0 ] || return 0
        rounds=2
    done
}

# System calls while 10,000 users send 100,000 heartbeats; none may ask for memory. It begins
# when the store has learnt of the users, and ends before their last_seen is due to be stored.
measure_syscalls() {
    local what="system calls per heartbeat" seconds=10 answered calls memory grown
    [ "$QUICK" = 0 ] || seconds=1
    if ! command -v strace >/dev/null; then
        unmeasured "$what" "strace is not installed"
        return 0
    fi
    start_for "$what" presence || return 0
    if load_on presence hold -n 10000 --rate 10000 --seconds "$seconds" --settle 2.5 --clean \
        --with "exec strace -f -q -o $TMP/trace -p ${PID[presence]} 2>>$OUT/load.log"; then
        answered=$(field answered)
        grown=$(($(field anonymous_run_kb) - $(field anonymous_held_kb)))
        calls=$(wc -l <"$TMP/trace")
        memory=$(memory_calls | awk '{ n += $1 } END { print n + 0 }')
        row "$what" "$(calc "$calls / $answered")" "$(common_calls "$answered")" - -
        row "memory calls in $answered heartbeats" "$memory" \
            "$(memory_calls | paste -sd , -)" - "0" "$memory == 0"
        row "growth meanwhile, anonymous KiB" "$grown" - - -
    else
        unmeasured "$what" "$(field error)"
    fi
    stop presence
}

# Prints the commonest calls of the trace, each per heartbeat ($1 of them).
common_calls() {
    sed -n 's/^[0-9]* *\([a-z0-9_]*\)(.*/\1/p' "$TMP/trace" | sort | uniq -c | sort -rn |
        awk -v n="$1" 'NR <= 5 { printf "%s%s %.3f", (NR == 1 ? "" : ", "), $2, $1 / n }'
}

# Prints the calls of the trace that ask for memory or give it back: COUNT CALL THREAD.
memory_calls() {
    local count tid call
    awk '$2 ~ /^(brk|mmap|munmap|mremap|madvise)\(/ { sub(/\(.*/, "", $2); n[$1 " " $2]++ }
        END { for (i in n) print n[i], i }' "$TMP/trace" |
        while read -r count tid call; do
            echo "$count $call $(cat "/proc/${PID[presence]}/task/$tid/comm" 2>/dev/null)"
        done
}

# Prints a command that fetches pages of the online users at a port until it is ended.
page_loop() {
    echo "exec $OUT/load http --port $1 -c 1 --seconds 60 --settle 0" \
        "--path '/admin/online-users?limit=1000' >$TMP/pages"
}

# The p99 of a ping at 9,000 users, alone and while an admin fetches pages without a pause. On few
# processors fetching and building pages already takes time from everybody; how much of the delay
# that is shows a control: the pages of a second server, which shares nothing with the first.
measure_ping() {
    local what="ping p99 ms while pages are fetched" round rounds=3 seconds=2
    local kind kinds="alone control own"
    local -A p99=([alone]="" [own]="" [control]="") with=()
    [ "$QUICK" = 0 ] || rounds=1 seconds=1.5 kinds="alone own"
    start_for "$what" presence control || return 0
    with=([alone]="exec sleep 60" [own]=$(page_loop "${PORT[presence]}")
        [control]=$(page_loop "${PORT[control]}"))
    if [ "$QUICK" = 0 ]; then
        "$OUT/load" hold --port "${PORT[control]}" -n 9000 --seconds 600 >/dev/null 2>&1 8>&- &
        STARTED+=("$!")
        sleep 1
    fi
    for round in $(seq "$rounds"); do
        for kind in $kinds; do
            if ! load_on presence hold -n 9000 --rate 5000 --seconds "$seconds" --settle 0.3 \
                --clean --stamp --with "${with[$kind]}"; then
                unmeasured "$what" "round $round, $kind: $(field error)"
                break 2
            fi
            p99[$kind]+=" $(field answer_p99_ms)"
        done
    done
    RESULT=$(cat "$TMP/pages" 2>/dev/null || true)
    # shellcheck disable=SC2086
    if [ "$(field failed)" != 0 ]; then
        unmeasured "$what" "the pages: $(field error)"
    elif [ -n "${p99[own]}" ]; then
        for kind in $kinds; do p99[$kind]=$(median ${p99[$kind]}); done
        row "$what" "${p99[own]}" "alone ${p99[alone]}; $(field answers_per_second) pages/s" \
            "$(calc "${p99[own]} / ${p99[alone]}") of alone" "3" \
            "${p99[own]} <= 3 * ${p99[alone]}"
        [ -z "${p99[control]}" ] ||
            row "  the same, pages of a second server" "${p99[control]}" - \
                "$(calc "${p99[own]} / ${p99[control]}") of this" -
    fi
    stop presence control
}

# GET of one of 1,000 connected users by 16 clients, on kept connections and on one each.
measure_get() {
    local what="GET of a user/s" holder tries=0 rounds=3 seconds=2 kind
    [ "$QUICK" = 0 ] || rounds=1 seconds=0.7
    start_for "$what" presence civetweb bare || return 0
    "$OUT/load" hold --port "${PORT[presence]}" -n 1000 --seconds 600 >/dev/null 2>&1 8>&- &
    holder=$!
    STARTED+=("$holder")
    until load http --port "${PORT[presence]}" -c 1 --seconds 0.1 --settle 0 \
        --path /api/presence/user999 || [ "$tries" = 50 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    for kind in "kept alive" "one a connection"; do
        set -- http -c 16 --seconds "$seconds" --settle 0.1
        [ "$kind" = "kept alive" ] || set -- "$@" --once
        turns "$what, $kind" "$rounds" "presence civetweb bare" "answers_per_second cpu_per_100k" \
            "$@" || break
        row_of_turns "$what, $kind" answers_per_second "civetweb bare" "0.9" "ratio >= 0.9"
        row_of_turns "  CPU s per 100,000" cpu_per_100k "civetweb bare" -
    done
    end_process "$holder"
    stop presence civetweb bare
}

# One user's change reaches 9,999 who follow: from its sending to each receipt. 94 % of it are the
# system's send(), which two threads call while the load reads on the same processors; so the bar is
# what a bare loop of send() in two threads needs, beside it in the same run. The second time the
# load reads once all is sent, as if those who follow had processors of their own.
measure_fanout() {
    local what="a change to 9,999 who follow, p99 ms" rounds=3 seconds=3
    [ "$QUICK" = 0 ] || rounds=1 seconds=2
    set -- hold -n 10000 --watch user0 --rate 2 --seconds "$seconds" --settle 0.5
    start_for "$what" presence bare watch || return 0
    if turns "$what" "$rounds" "presence bare watch" \
        "answer_p50_ms answer_p99_ms answered sent cpu_per_100k bytes_per_connection" "$@"; then
        row_of_turns "$what" answer_p99_ms "bare watch" "1.25" "ratio <= 1.25"
        row_of_turns "  the same, p50 ms" answer_p50_ms "bare watch" -
        row "  heard by all" "$(value presence answered)" "of 9,999 x $(value presence sent)" - \
            "all" "$(value presence answered) == 9999 * $(value presence sent)"
        row_of_turns "  CPU s per 100,000 told" cpu_per_100k "bare watch" -
        row_of_turns "  bytes per user who follows one" bytes_per_connection "watch bare" -
    fi
    if turns "$what" "$rounds" "presence bare watch" answer_p99_ms "$@" --look 0.15; then
        row_of_turns "  the same, read when all is sent, p99 ms" answer_p99_ms "bare watch" -
    fi
    stop presence bare watch
}

# 2,000 users who all follow all come at once after a crash: memory, and whether health answers.
measure_everybody() {
    local what="2,000 follow all 2,000: healthz, worst ms" health edges=4000000
    OPTIONS+=(--max-watch 2000)
    start_for "$what" presence || return 0
    if ! load_on presence hold -n 2000 --settle 1.5; then # they are in the store
        unmeasured "$what" "$(field error)"
        stop presence
        return 0
    fi
    kill -9 "${PID[presence]}"
    wait "${PID[presence]}" 2>/dev/null || true
    KEEP=1 start_for "$what" presence || return 0
    "$OUT/load" http --port "${PORT[presence]}" -c 1 --path /healthz --settle 0 \
        --seconds 15 >"$TMP/health" 2>/dev/null 8>&- &
    health=$!
    STARTED+=("$health")
    if load_on presence hold -n 2000 --watch all -c 2000 --seconds 2 --settle 0.5; then
        row "  bytes per follower and followed" \
            "$(calc "$(field bytes_per_connection) * 2000 / $edges")" - - "100" \
            "$(field bytes_per_connection) * 2000 / $edges <= 100"
        row "  seconds until all have all" "$(field connect_seconds)" - - -
        wait "$health" || true
        RESULT=$(tail -n 1 "$TMP/health")
        row "$what" "$(field answer_max_ms)" "p99 $(field answer_p99_ms)" - "1000" \
            "$(field answer_max_ms) <= 1000"
    else
        unmeasured "$what" "$(field error)"
    fi
    stop presence
}

# Anonymous memory of 5,000 idle users over TLS 1.3, and what is left of it when they have gone.
measure_wss_memory() {
    local what="bytes per idle wss user (5,000)"
    use_certificate "$what" ec || return 0
    start_for "$what" presence || return 0
    sleep 0.3
    if load_on presence hold --tls --tls-version 1.3 -n 5000 -c 50 --sources 50 --settle 0.5 \
        --clean; then
        row "$what" "$(field bytes_per_connection)" "RSS $(field rss_per_connection)" - "8192" \
            "$(field bytes_per_connection) <= 8192"
        sleep 2 # the store learns of it within a sync interval
        quiet presence
        load measure --pid "${PID[presence]}" || true
        row "anonymous KiB when they have gone" "$(field anonymous_now_kb)" - - -
    else
        unmeasured "$what" "$(field error)"
    fi
    stop presence
}

# Handshakes for each CPU second of the server, which has one processor while the load generator has
# another: TLS 1.3, full and resumed by ticket.
measure_handshakes() {
    local kind what rounds=3 seconds=1.5 kinds="ec,full ec,resumed rsa,full"
    [ "$QUICK" = 0 ] || rounds=1 seconds=1 kinds="ec,full ec,resumed"
    what="handshakes/CPU s"
    use_certificate "$what" ec || return 0
    if ! taskset -c 0 true 2>/dev/null || ! taskset -c 1 true 2>/dev/null; then
        unmeasured "$what" "needs processors 0 and 1"
        return 0
    fi
    SERVER_ON=(taskset -c 0) CLIENT_ON=(taskset -c 1)
    for kind in $kinds; do
        what="handshakes/CPU s (${kind/,/, })"
        use_certificate "$what" "${kind%,*}"
        set -- handshake --tls-version 1.3 -c 8 --sources 50 --seconds "$seconds" --settle 0.1
        [ "$kind" = "${kind%resumed}" ] || set -- "$@" --resume
        if start_for "$what" presence openssl tls_bare &&
            turns "$what" "$rounds" "presence openssl tls_bare" \
                "answers_per_cpu_second answers_per_second answer_p99_ms" "$@" --clean; then
            row_of_turns "$what" answers_per_cpu_second "openssl tls_bare" -
            row_of_turns "  handshakes/s" answers_per_second "openssl tls_bare" -
            row_of_turns "  their p99, ms" answer_p99_ms "openssl tls_bare" -
        fi
        stop presence openssl tls_bare
    done
    SERVER_ON=() CLIENT_ON=()
}

# The p99 of a ping of 200 users, alone and while clients shake hands without a pause; and, as the
# clients of a storm take time themselves, while they do so with a second server.
measure_storm() {
    local what="ping p99 ms while hands are shaken" round rounds=5 seconds=2
    local kind kinds="alone control own"
    local -A p99=([alone]="" [own]="" [control]="") with=()
    [ "$QUICK" = 0 ] || rounds=1 seconds=1.5
    use_certificate "$what" ec || return 0
    start_for "$what" presence control || return 0
    with=([alone]="exec sleep 60" [own]=$(storm_at "${PORT[presence]}")
        [control]=$(storm_at "${PORT[control]}"))
    for round in $(seq "$rounds"); do
        for kind in $kinds; do
            if ! load_on presence hold --tls -n 200 --sources 50 --rate 2000 --seconds "$seconds" \
                --settle 0.3 --clean --stamp --with "${with[$kind]}"; then
                unmeasured "$what" "round $round, $kind: $(field error)"
                break 2
            fi
            p99[$kind]+=" $(field answer_p99_ms)"
        done
    done
    RESULT=$(cat "$TMP/storm" 2>/dev/null || true)
    # shellcheck disable=SC2086
    if [ "$(field failed)" != 0 ]; then
        unmeasured "$what" "the storm: $(field error)"
    elif [ -n "${p99[own]}" ]; then
        for kind in $kinds; do p99[$kind]=$(median ${p99[$kind]}); done
        row "$what" "${p99[own]}" "alone ${p99[alone]}; $(field answers_per_second) handshakes/s" \
            "$(calc "${p99[own]} / ${p99[alone]}") of alone" "3" \
            "${p99[own]} <= 3 * ${p99[alone]}"
        row "  the same, with a second server" "${p99[control]}" - \
            "$(calc "${p99[own]} / ${p99[control]}") of this" -
    fi
    stop presence control
}

# Prints a command that shakes hands at a port, 64 at a time, until it is ended. It gives way to
# others, as it would from another machine.
storm_at() {
    echo "exec nice -n 19 $OUT/load handshake --port $1 -c 64 --sources 50 --seconds 60" \
        "--settle 0 --clean >$TMP/storm"
}

# New users one after another over TLS, alone and while 10,000 sockets are open, half of them on
# each port, that never say anything whole: of every 10 one drips 5 bytes a second.
measure_silent() {
    local what="login ms beside 10,000 silent, p99 more" alone silent logins plain
    use_certificate "$what" ec || return 0
    OPTIONS=(--request-timeout 60s) # or they would not stay
    start_for "$what" presence || return 0
    OPTIONS=()
    logins="exec $OUT/load connect --tls --port ${PORT[presence]} -n 1000 -c 1 --settle 0"
    logins+=" --path '/ws/presence/new{i}' >$TMP/logins"
    load connect --tls --port "${PORT[presence]}" -n 1000 -c 1 --settle 0 || true
    alone=$(field connect_p99_ms)
    "$OUT/load" hold --silent --port "$(port_in "$OUT/presence.log" "")" -n 5000 --sources 50 \
        --rate 2500 --seconds 60 --settle 0 >"$TMP/plain" 2>/dev/null 8>&- &
    plain=$!
    STARTED+=("$plain")
    load_on presence hold --silent --tls -n 5000 --sources 50 --rate 2500 --seconds 5 --settle 1 \
        --with "$logins" || true
    silent=$(($(field connected) - $(field dropped)))
    end_process "$plain"
    RESULT=$(tail -n 1 "$TMP/plain")
    silent=$((silent + $(field connected) - $(field dropped)))
    RESULT=$(cat "$TMP/logins" 2>/dev/null || true)
    if [ "$(field connected)" = 1000 ] && [ "$silent" -gt 9000 ] && [ -n "$alone" ]; then
        row "$what" "$(calc "$(field connect_p99_ms) - $alone")" \
            "p99 $(field connect_p99_ms), alone $alone; silent: $silent" - "50" \
            "$(field connect_p99_ms) - $alone < 50"
    else
        unmeasured "$what" "logins $(field connected), silent $silent: $(field error)"
    fi
    stop presence
}

# From the start of the program with 1,000,000 stored users to its first answer.
measure_cold() {
    local what="cold start with 1,000,000 users, ms" state port round times
    start_for "$what" presence || return 0
    port=${PORT[presence]}
    load_on presence connect -n 1 --clean --settle 0.1 || true
    stop presence
    if ! store_million; then
        unmeasured "$what" "the store: $(tail -n 1 "$OUT/restore.log")"
        return 0
    fi
    for state in "in the page cache" "on the disk"; do
        times=
        for round in 1 2 3; do
            [ "$state" = "in the page cache" ] || evict "$TMP/million"
            if ! start_million "$port"; then
                unmeasured "$what" "no answer, round $round: $(tail -n 1 "$OUT/cold.log")"
                return 0
            fi
            times+=" $(field first_answer_ms)"
        done
        # shellcheck disable=SC2086
        row "$what" "$(median $times)" "$(du -sk "$TMP/million" | cut -f 1) KiB $state" - "100" \
            "$(median $times) <= 100"
    done
}

# Makes a store of 1,000,000 users after the model of the one user that is stored now.
store_million() {
    rm -rf "$TMP/million"
    timeout 60 "$PRESENCE" --dump --data "$TMP/presence" \
        >"$TMP/dump" 2>"$OUT/restore.log" || return 1
    # The line of user0 a million times, each time under another name, and the count to match.
    awk 'index($0, "{\"user\":\"user0\"") == 1 {
            rest = substr($0, length("{\"user\":\"user0") + 1)
            for (i = 0; i < 1000000; i++) print "{\"user\":\"user" i rest
            next
        }
        { sub(/"users":1,/, "\"users\":1000000,"); print }' "$TMP/dump" >"$TMP/restore"
    timeout 120 "$PRESENCE" --restore "$TMP/restore" --data "$TMP/million" \
        >>"$OUT/restore.log" 2>&1 || return 1
    rm -f "$TMP/restore"
}

# Starts ours on the large store, times its first answer, ends it. $1 port.
start_million() {
    load start --port "$1" --path /api/presence/user777777 --seconds 20 \
        --with "exec $PRESENCE --listen 127.0.0.1:$1 --data $TMP/million >>$OUT/cold.log 2>&1"
}

# Drops the files of a directory from the page cache, so that they have to be read again.
evict() {
    local file
    for file in "$1"/*; do dd if="$file" iflag=nocache count=0 2>/dev/null || true; done
}

# Three nodes and an engine: what cluster.js prints, as rows.
measure_cluster() {
    local what ours more ratio bar condition
    if ! command -v redis-server >/dev/null || ! command -v node >/dev/null; then
        unmeasured "cluster" "redis-server or node is not installed"
        return 0
    fi
    while IFS='|' read -r what ours more ratio bar condition; do
        if [ "$ours" = "!" ]; then
            unmeasured "$what" "$more"
        else
            row "$what" "$ours" "$more" "$ratio" "$bar" "$condition"
        fi
    done < <(PRESENCE_BIN=$PRESENCE timeout -k 10 900 node "$HERE/cluster.js" \
        "$([ "$QUICK" = 0 ] && echo whole || echo quick)" 2>>"$OUT/cluster.log" 8>&-)
}

# ==== Main ========================================================================================

# Installs what only the benchmark needs: OpenSSL, with which the load generator speaks TLS and
# which is the peer for handshakes. As root with apt, otherwise it says what to type.
need() {
    local how="apt-get install --no-install-recommends -y libssl-dev openssl"
    [ ! -f /usr/include/openssl/ssl.h ] || ! command -v openssl >/dev/null || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "OpenSSL and its headers are missing. To install: sudo $how"
        exit 1
    fi
    say "installing libssl-dev and openssl"
    DEBIAN_FRONTEND=noninteractive $how >"$OUT/apt.log" 2>&1 </dev/null && return
    { apt-get update && DEBIAN_FRONTEND=noninteractive $how; } >"$OUT/apt.log" 2>&1 </dev/null &&
        return
    say "could not install them: $(tail -n 1 "$OUT/apt.log")"
    exit 1
}

# Compiles the load generator and the peers when they are older than their sources.
build() {
    local library cc
    need
    rm -f "$OUT"/*.log "$OUT/results.jsonl"
    [ "$OUT/load" -nt $HERE/load.c ] ||
        gcc -std=c11 -O2 -Wall -Wextra -o "$OUT/load" $HERE/load.c -lssl -lcrypto
    [ "$OUT/bare" -nt $HERE/bare.c ] ||
        gcc -std=c11 -O2 -Wall -Wextra -static -pthread -o "$OUT/bare" $HERE/bare.c
    library=$(find build/vendor/src -path '*/src/civetweb.c' 2>/dev/null | sed 's|/src/[^/]*$||;q')
    if [ -z "$library" ] || [ ! -f build/vendor/release.a ]; then
        say "no libraries under build/vendor: run ./build.sh build"
        exit 1
    fi
    cc=$(command -v musl-gcc || echo gcc) # what ours is built with
    [[ $OUT/tls_bare -nt $HERE/tls_bare.c && $OUT/tls_bare -nt build/vendor/release.a ]] ||
        "$cc" -O2 -w -Ivendor -I"${library%/*}/mbedtls/include" -static -pthread \
            '-DMBEDTLS_CONFIG_FILE=<mbedtls_config.h>' -o "$OUT/tls_bare" $HERE/tls_bare.c \
            build/vendor/release.a
    [ ! "$OUT/civetweb_handler" -nt $HERE/civetweb_handler.c ] || return 0
    "$cc" -O2 -w -D_GNU_SOURCE -DNO_FILES -DNO_CGI -DNO_CACHING -DNO_SSL -DUSE_WEBSOCKET \
        -I"$library/include" -I"$library/src" -static -pthread -o "$OUT/civetweb_handler" \
        $HERE/civetweb_handler.c "$library/src/civetweb.c"
}

# Prints the rows as a table.
report() {
    { echo "what|ours|peers|ratio|bar|met" && cat "$ROWS"; } | awk -F'|' '
        { for (i = 1; i <= 6; i++) {
            cell[NR, i] = $i
            if (length($i) > width[i]) width[i] = length($i)
        } }
        END { for (r = 1; r <= NR; r++) {
            line = ""
            for (i = 1; i <= 6; i++) line = line sprintf("%-" width[i] "s  ", cell[r, i])
            sub(/ +$/, "", line)
            print line
        } }'
}

# Runs one measurement by its name.
measure() {
    CERTIFICATE='' OPTIONS=()
    ! has_option --max-pending-per-address || OPTIONS=(--max-pending-per-address 0)
    case $1 in
    size) measure_size ;;
    idle) measure_idle ;;
    memory) measure_memory ;;
    held) measure_held ;;
    connect) measure_connect ;;
    heartbeat) measure_heartbeat ;;
    syscalls) measure_syscalls ;;
    ping) measure_ping ;;
    get) measure_get ;;
    fanout) measure_fanout ;;
    everybody) measure_everybody ;;
    silent) measure_silent ;;
    wss-memory) measure_wss_memory ;;
    handshakes) measure_handshakes ;;
    storm) measure_storm ;;
    cold) measure_cold ;;
    cluster) measure_cluster ;;
    *)
        say "no such measurement: $1"
        exit 1
        ;;
    esac
}

QUICK=0
if [ "${1:-}" = quick ]; then
    QUICK=1
    shift
fi
if [ $# = 0 ]; then
    set -- size idle memory held connect heartbeat syscalls ping get fanout everybody \
        silent wss-memory handshakes storm
    [ "$QUICK" = 1 ] || set -- "$@" cold
fi
mkdir -p "$OUT"
exec 8>"$OUT/.lock" # two runs would disturb each other, and share their logs
if command -v flock >/dev/null && ! flock -n 8; then
    say "another run is under way"
    exit 1
fi
build
if [ ! -x "$PRESENCE" ]; then
    say "no $PRESENCE: run ./build.sh build"
    exit 1
fi
: >"$ROWS"
for name; do
    began=$SECONDS
    measure "$name"
    say "($name took $((SECONDS - began)) s)"
done
report
exit "$FAILED"
