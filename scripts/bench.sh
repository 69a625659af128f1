#!/usr/bin/env bash
# Measures the gateway beside the comparator (axum with the official Rust SDK), in one run, before the same worker.
#
#   ./scripts/bench.sh [--rounds 3] [--seconds 5] [--workers 2] [--connections "1 16 64"] [--only gateway|comparator|mcp|tls|limits]
#   ./scripts/bench.sh --peers [--name peers] [--rounds 3] [--seconds 3] [--connections "1 16 64"] [PROGRAM...]
#   ./scripts/bench.sh --curves [--name curves] [--rounds 3] [--seconds 3] [AXIS...]
#
# `--peers` installs other gateways into target/ (the first time takes a quarter of an hour) and measures them beside ours, `--curves` says how
# what a call costs goes with connections, workers, tools and the size of results. Both leave their data, a table and a plot in
# bench/runs/DATE-NAME.
#
# With `--only limits` it is measured with keys of a file, all limits and checked arguments, beside the same without any.
#
# With `--only mcp` the gateway is measured beside itself: the same calls over /mcp, in a session and as MCP 2026-07-28
# has them. With `--only tls` it is measured beside another gateway that speaks TLS 1.3; what wrk itself needs for TLS, on the
# same processors, is in that ratio.
#
# The two take turns, round by round; the table shows the medians. Worth reading are the ratios: absolute figures change
# from machine to machine. CPU is that of the program itself, all its threads, without its workers. Every round is kept
# in target/bench/rounds.tsv.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"

case ${1:-} in
  --peers) exec "$ROOT/scripts/lib/run.sh" peers "${@:2}" ;;
  --curves) exec "$ROOT/scripts/lib/run.sh" curves "${@:2}" ;;
esac

rounds=3
seconds=5
workers=2
connections="1 16 64"
only=
while [[ $# != 0 ]]; do
  [[ $# != 1 ]] || fail "$1 needs a value"
  case $1 in
    --rounds) rounds=$2 ;;
    --seconds) seconds=$2 ;;
    --workers) workers=$2 ;;
    --connections) connections=$2 ;;
    --only) only=$2 ;;
    *) fail "there is no option $1; see the first lines of this script" ;;
  esac
  shift 2
done

folder=$(mktemp -d)
declare -A pid port first_answer_ms
finish() {
  local program
  for program in "${!pid[@]}"; do stop "${pid[$program]}"; done
  rm -rf "$folder"
}
trap finish EXIT

key=bench-$RANDOM$RANDOM
body='{"arguments":{"text":"hello"}}'
call='"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}'
meta='"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'

# write_wrk_script NAME BODY [HEADER VALUE]...
write_wrk_script() {
  local name=$1 body=$2 headers=
  shift 2
  while [[ $# != 0 ]]; do
    headers+="wrk.headers[\"$1\"] = \"$2\""$'\n'
    shift 2
  done
  cat >"$folder/$name.lua" <<LUA
wrk.method = "POST"
wrk.body = '$body'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = "$key"
$headers
function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format("MEASURED %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
LUA
}

# start PROGRAM: starts it, and leaves its pid, its port and the time until its first answered call.
start() {
  local program=$1 start_us
  port[$program]=$(free_port)
  start_us=${EPOCHREALTIME/./}
  case $program in
    gateway | tls | free | limited)
      # In a folder of its own, so that no gateway.conf is found.
      (
        cd "$folder"
        [[ $program != tls ]] || export TLS_CERT=$folder/cert.pem TLS_KEY=$folder/key.pem
        export LISTEN=127.0.0.1:${port[$program]} API_KEY=$key LOG_LEVEL=WARNING DATA_DIR=$folder/data
        export MIN_WORKERS=$workers MAX_WORKERS=$workers
        case $program in
          gateway | tls) exec "$GATEWAY" -- "$HELPER" ;;
          free) export API_KEY= VALIDATE_INPUT=false ;;
          # Limits that are looked at and never reached.
          limited)
            export API_KEY= API_KEYS_FILE=$folder/keys.json RATE_LIMIT_ADDRESS=1000000 CONNECTIONS_PER_ADDRESS_MAX=1000
            export CORS_ORIGINS=https://app.example ALLOWED_HOSTS=box.example
            ;;
        esac
        exec "$GATEWAY" -- "$HELPER" --schema '{"type":"object","properties":{"text":{"type":"string","maxLength":1000}},"required":["text"],"additionalProperties":false}'
      ) 2>"$folder/$program.log" &
      ;;
    comparator) "$COMPARATOR" "$HELPER" "${port[comparator]}" "$workers" 2>"$folder/comparator.log" & ;;
  esac
  pid[$program]=$!
  if ! wait_for_first_answer "$program"; then
    cat "$folder/$program.log" >&2
    fail "$program did not answer a call"
  fi
  first_answer_ms[$program]=$(awk "BEGIN { printf \"%.1f\", (${EPOCHREALTIME/./} - $start_us) / 1000 }")
}

# Tries again at once, for 15 seconds: a wait between two tries would be measured as well.
wait_for_first_answer() {
  local program=$1 deadline=$((SECONDS + 15))
  until answers_a_call "${port[$program]}" "$program"; do
    is_over "${pid[$program]}" && return 1
    [[ $SECONDS -le $deadline ]] || return 1
  done
}

# Without starting a program, which would cost more than the answer; but for TLS there is no other way.
answers_a_call() {
  local line=
  if [[ $2 == tls ]]; then
    curl --silent --fail --output /dev/null --max-time 10 --cacert "$folder/cert.pem" -H "X-API-Key: $key" \
      --data "$body" "https://127.0.0.1:$1/tools/echo"
    return
  fi
  { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
  printf 'POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
    "$key" "${#body}" "$body" >&3
  read -r -t 10 line <&3 || true
  exec 3>&-
  [[ $line == "HTTP/1.1 200"* ]]
}

# The gateway's process under two more names, for what its MCP clients get.
begin_mcp() {
  local session url=http://127.0.0.1:${port[gateway]}/mcp
  session=$(curl --silent --show-error --output /dev/null --dump-header - -H "X-API-Key: $key" -H 'Content-Type: application/json' "$url" \
    -d '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}' |
    tr -d '\r' | awk 'tolower($1) == "mcp-session-id:" { print $2 }')
  [[ -n $session ]] || fail "the gateway opened no session"
  write_wrk_script mcp-session "{$call}}" Mcp-Session-Id "$session" MCP-Protocol-Version 2025-11-25
  write_wrk_script mcp-modern "{$call,$meta}}" MCP-Protocol-Version 2026-07-28 Mcp-Method tools/call Mcp-Name echo
  for program in mcp-session mcp-modern; do
    pid[$program]=${pid[gateway]}
    port[$program]=${port[gateway]}
    first_answer_ms[$program]=${first_answer_ms[gateway]}
  done
}

# CPU time so far in clock ticks, of all threads, also of those that have ended.
cpu_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
pss_kb() { awk '/^Pss:/ { print $2 }' "/proc/$1/smaps_rollup"; }
threads() { awk '/^Threads:/ { print $2 }' "/proc/$1/status"; }

# measure PROGRAM CONNECTIONS ROUND: one line in rounds.tsv.
measure() {
  local program=$1 n=$2 round=$3 ticks output requests duration_us p50_us p99_us errors wrk_threads=2
  local own_pid=${pid[$program]} script=echo path=/tools/echo scheme=http
  [[ $program != tls ]] || scheme=https
  [[ $program != mcp-* ]] || { script=$program path=/mcp; }
  [[ $n != 1 ]] || wrk_threads=1
  ticks=$(cpu_ticks "$own_pid")
  # What it takes under load is looked at while the load is on.
  (sleep "$(awk "BEGIN { print $seconds * 0.8 }")"; echo "$(pss_kb "$own_pid") $(threads "$own_pid")" >"$folder/loaded") &
  local watcher=$!
  output=$(wrk -t "$wrk_threads" -c "$n" -d "${seconds}s" -s "$folder/$script.lua" "$scheme://127.0.0.1:${port[$program]}$path")
  wait "$watcher"
  ticks=$(($(cpu_ticks "$own_pid") - ticks))
  read -r requests duration_us p50_us p99_us errors < <(sed -n 's/^MEASURED //p' <<<"$output") || fail "wrk said: $output"
  [[ $errors == 0 ]] || fail "$program with $n connections: $errors of $requests answers were errors: $output"
  awk -v OFS='\t' -v program="$program" -v n="$n" -v round="$round" -v requests="$requests" -v us="$duration_us" \
    -v p50="$p50_us" -v p99="$p99_us" -v ticks="$ticks" -v hz="$(getconf CLK_TCK)" -v loaded="$(cat "$folder/loaded")" \
    'BEGIN { split(loaded, it, " ")
       print program, n, round, sprintf("%.0f", requests / us * 1e6), p50, p99, sprintf("%.2f", ticks / hz * 1e6 / requests), it[1], it[2] }' \
    >>"$data"
}

# median PROGRAM CONNECTIONS COLUMN
median() {
  awk -F '\t' -v program="$1" -v n="$2" -v column="$3" '$1 == program && $2 == n { print $column }' "$data" | sort -n |
    awk '{ value[NR] = $1 } END { print NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'
}

print_table() {
  local program n
  printf '%-11s %11s %9s %8s %8s %10s %9s %8s\n' program connections calls/s 'p50 us' 'p99 us' 'CPU us/call' 'PSS kB' threads
  for n in $connections; do
    for program in "${programs[@]}"; do
      printf '%-11s %11d %9.0f %8.0f %8.0f %10.1f %9.0f %8.0f\n' "$program" "$n" "$(median "$program" "$n" 4)" \
        "$(median "$program" "$n" 5)" "$(median "$program" "$n" 6)" "$(median "$program" "$n" 7)" \
        "$(median "$program" "$n" 8)" "$(median "$program" "$n" 9)"
    done
  done
  for program in "${programs[@]}"; do
    echo "$program: ${idle_kb[$program]} kB PSS idle with ${idle_threads[$program]} threads$(first_answer "$program")"
  done
}

# With TLS the program that asks takes longer than the answer.
first_answer() { [[ $1 == tls ]] || echo "; first answered call ${first_answer_ms[$1]} ms after its start"; }

# ratio ONE OTHER CONNECTIONS COLUMN: one / other
ratio() { awk "BEGIN { printf \"%.2f\", $(median "$1" "$3" "$4") / $(median "$2" "$3" "$4") }"; }

# print_ratios ONE OTHER
print_ratios() {
  local n
  for n in $connections; do
    echo "$1/$2 at $n: calls/s $(ratio "$1" "$2" "$n" 4), p50 $(ratio "$1" "$2" "$n" 5), p99 $(ratio "$1" "$2" "$n" 6), CPU per call $(ratio "$1" "$2" "$n" 7), PSS $(ratio "$1" "$2" "$n" 8)"
  done
}

# 64 callers of a tool that takes 100 ms, with 8 workers: 640 calls/s if nothing were lost in between. At first the gateway gives each
# worker one call at a time, until it has found out that it can do several; then it goes on as it will for as long as it runs.
measure_slow_tool() {
  stop "${pid[gateway]}"
  workers=8
  start gateway
  echo "gateway: $(slow_calls_per_second) calls/s of a 100 ms tool at 64 connections with 8 workers from its start on, and $(slow_calls_per_second) after that (640 at most)"
}

slow_calls_per_second() {
  local output requests duration_us
  # So long that the round of calls which the end cuts off does not matter.
  output=$(wrk -t 2 -c 64 -d 10s -s "$folder/slow.lua" "http://127.0.0.1:${port[gateway]}/tools/delay")
  read -r requests duration_us _ < <(sed -n 's/^MEASURED //p' <<<"$output") || fail "wrk said: $output"
  awk "BEGIN { printf \"%.0f\", $requests / $duration_us * 1e6 }"
}

system_package wrk wrk || fail "wrk is missing; install it, or run this as root on a system with apt"
build_helper
programs=(gateway comparator)
[[ -z $only ]] || programs=("$only")
[[ $only != mcp ]] || programs=(gateway)
[[ $only != limits ]] || programs=(free limited)
[[ $only != tls ]] || programs=(gateway tls)
if [[ $only != comparator ]]; then
  build_release
fi
if [[ $only != gateway && $only != mcp && $only != tls && $only != limits ]] && ! build_comparator; then
  [[ -z $only ]] || fail "the comparator is not there: ../shared/bench/comparator"
  say "note: ../shared/bench/comparator is missing; only the gateway is measured"
  programs=(gateway)
fi

if [[ $only == limits ]]; then
  for ((n = 1; n <= 100; n++)); do
    key=$("$GATEWAY" key new "bench-$n" --file "$folder/keys.json" --tools 'echo,helper__*' --rate 1000000 --concurrent 1000 --expires 1d 2>/dev/null)
  done
fi
write_wrk_script echo "$body"
write_wrk_script slow '{"arguments":{"ms":100}}'
mkdir -p "$TARGET/bench"
data=$TARGET/bench/rounds.tsv
: >"$data"
declare -A idle_kb idle_threads
if [[ $only == tls ]]; then
  system_package curl curl || fail "curl is missing; install it, or run this as root on a system with apt"
  "$GATEWAY" tls self-signed --out "$folder" 127.0.0.1 >/dev/null 2>&1 || fail "no certificate was made"
fi
for program in "${programs[@]}"; do start "$program"; done
# Until starts are over.
sleep 2
for program in "${programs[@]}"; do
  idle_kb[$program]=$(pss_kb "${pid[$program]}")
  idle_threads[$program]=$(threads "${pid[$program]}")
done
if [[ $only == mcp ]]; then
  begin_mcp
  programs=(gateway mcp-session mcp-modern)
  for program in mcp-session mcp-modern; do
    idle_kb[$program]=${idle_kb[gateway]}
    idle_threads[$program]=${idle_threads[gateway]}
  done
fi
for ((round = 1; round <= rounds; round++)); do
  for n in $connections; do
    for program in "${programs[@]}"; do measure "$program" "$n" "$round"; done
  done
done

echo "$(nproc) cores, $(uname -sr), $(wrk -v 2>&1 | awk 'NR == 1 { print $1, $2 }'), $workers workers, $rounds rounds of $seconds s, medians"
print_table
case $only in
  mcp)
    print_ratios mcp-session gateway
    print_ratios mcp-modern gateway
    ;;
  tls) print_ratios tls gateway ;;
  limits) print_ratios limited free ;;
  comparator) ;;
  *)
    [[ ${#programs[@]} != 2 ]] || print_ratios gateway comparator
    measure_slow_tool
    ;;
esac
