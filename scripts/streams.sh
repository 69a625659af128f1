#!/usr/bin/env bash
# Measures what quiet streams cost and how fast an event is. Takes about a minute; nothing here is a pass or a failure.
#
#   ./scripts/streams.sh [--websockets 1000] [--streams 1000] [--seconds 10] [--steps 1000]
#
# It prints the gateway's memory (PSS) without and with that many idle WebSockets and running but quiet event streams, its
# CPU over so many seconds with nothing but them, the p99 of plain calls with and without them, and the time from a
# server's write to the client's receipt.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"

websockets=1000
streams=1000
seconds=10
steps=1000
while [[ $# != 0 ]]; do
  [[ $# != 1 ]] || fail "$1 needs a value"
  case $1 in
    --websockets) websockets=$2 ;;
    --streams) streams=$2 ;;
    --seconds) seconds=$2 ;;
    --steps) steps=$2 ;;
    *) fail "there is no option $1; see the first lines of this script" ;;
  esac
  shift 2
done

system_package wrk wrk || fail "wrk is missing; install it, or run this as root on a system with apt"
system_package python3 python3 || fail "python3 is missing; install it, or run this as root on a system with apt"
# One descriptor for each connection on either side; an idle WebSocket has one more in the gateway.
ulimit -n $((3 * (websockets + streams) + 2048)) 2>/dev/null || fail "too few descriptors; try \`ulimit -Hn\` and fewer streams"
[[ $((streams)) -le 2000 ]] || fail "two workers take 1000 quiet streams each"
build_helper
build_release

folder=$(mktemp -d)
gateway_pid=
client_pid=
finish() {
  [[ -z $client_pid ]] || stop "$client_pid"
  [[ -z $gateway_pid ]] || stop "$gateway_pid"
  rm -rf "$folder"
}
trap finish EXIT

key=streams-$RANDOM$RANDOM
port=$(free_port)
url=http://127.0.0.1:$port
client=$ROOT/scripts/lib/streams.py

pss_kb() { awk '/^Pss:/ { print $2 }' "/proc/$gateway_pid/smaps_rollup"; }
threads() { awk '/^Threads:/ { print $2 }' "/proc/$gateway_pid/status"; }
cpu_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$gateway_pid/stat"; }
open_connections() { python3 -c 'import json, sys; print(json.load(sys.stdin)["connections"]["open"])'; }
has_open() {
  local n
  n=$(curl --silent --max-time 5 -H "X-API-Key: $key" "$url/stats" | open_connections)
  [[ $n == "$1" ]]
}

(
  # In a folder of its own, so that no gateway.conf is found.
  cd "$folder"
  export LISTEN=127.0.0.1:$port API_KEY=$key LOG_LEVEL=WARNING DATA_DIR=$folder/data
  export MIN_WORKERS=2 MAX_WORKERS=2 WORKER_CONCURRENCY=1024
  export CONNECTIONS_MAX=$((websockets + streams + 256)) MCP_REQUEST_TIMEOUT=600
  exec "$GATEWAY" -- "$HELPER"
) 2>"$folder/gateway.log" &
gateway_pid=$!
is_healthy() { curl --silent --fail --max-time 5 "$url/health"; }
if ! wait_until 15 is_healthy; then
  cat "$folder/gateway.log" >&2
  fail "the gateway did not become healthy"
fi

cat >"$folder/echo.lua" <<LUA
wrk.method = "POST"
wrk.body = '{"arguments":{"text":"hello"}}'
wrk.headers["X-API-Key"] = "$key"
function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format("MEASURED %d %d %d", latency:percentile(50), latency:percentile(99),
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
LUA

# plain_calls NAME: p50 and p99 of echo with 8 connections.
plain_calls() {
  local output p50_us p99_us errors
  output=$(wrk -t 1 -c 8 -d 5s -s "$folder/echo.lua" "$url/tools/echo")
  read -r p50_us p99_us errors < <(sed -n 's/^MEASURED //p' <<<"$output") || fail "wrk said: $output"
  [[ $errors == 0 ]] || fail "$errors plain calls failed: $output"
  echo "plain calls $1: p50 $p50_us us, p99 $p99_us us"
}

echo "$(nproc) cores, $(uname -sr), $websockets WebSockets, $streams event streams"
for surface in sse ws; do
  read -r median_us p99_us max_us first_us < <(python3 "$client" latency "$url" "$key" "$surface" "$steps")
  echo "a server's write to the client's receipt over $surface, $steps steps: median $median_us us, p99 $p99_us us, longest $max_us us, first $first_us us"
done
plain_calls "without streams"
# Until its start is over.
sleep 2
idle_kb=$(pss_kb)
idle_threads=$(threads)

mkfifo "$folder/end"
python3 "$client" hold "$url" "$key" "$websockets" "$streams" <"$folder/end" >"$folder/client.out" &
client_pid=$!
# Open until the end of the measurement, which ends the client.
exec 9>"$folder/end"
is_holding() { grep -q '^open' "$folder/client.out" || is_over "$client_pid"; }
wait_until 120 is_holding || fail "the streams did not open in time"
is_over "$client_pid" && fail "the streams could not be opened: $(cat "$folder/client.out")"
# The question itself comes over one more connection.
wait_until 10 has_open $((websockets + streams + 1)) || fail "not all streams are open"

held_kb=$(pss_kb)
ticks=$(cpu_ticks)
sleep "$seconds"
ticks=$(($(cpu_ticks) - ticks))
echo "memory: $idle_kb kB PSS without, $held_kb kB with them: $((held_kb - idle_kb)) kB more, with $(threads) threads instead of $idle_threads"
echo "CPU over $seconds s with nothing but them: $ticks ticks of 1/$(getconf CLK_TCK) s (keep-alives of every 15 s included)"
plain_calls "beside them"
exec 9>&-
wait "$client_pid" || true
client_pid=
tail -n 1 "$folder/client.out"
wait_until 10 has_open 1 || say "some connections are still open 10 s after their clients left"
echo "memory after they have gone: $(pss_kb) kB PSS"
