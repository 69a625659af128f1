#!/usr/bin/env bash
# Looks at the gateway's TLS as somebody from outside would: testssl.sh against a running one, then a load of handshakes.
#
#   ./scripts/tls.sh [--only testssl|handshakes] [--per-second 600] [--seconds 3] [--quick]
#
# testssl.sh (Debian's package) must find nothing above low severity, but for what any self-signed certificate brings,
# which is printed. Then so many new connections a second, each with a whole handshake, come for so many seconds, while
# calls are made beside them; all must succeed, and what became of the calls' rate and latency is printed. It runs a
# release build; with --quick the one that `cargo test` has built anyway, and without the slowest checks of testssl.sh.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

only=
quick=
while [[ $# != 0 ]]; do
  if [[ $1 == --quick ]]; then
    quick=1
    shift
    continue
  fi
  [[ $# != 1 ]] || fail "$1 needs a value"
  case $1 in
    --only)
      [[ $2 == testssl || $2 == handshakes ]] || fail "--only takes testssl or handshakes, got \`$2\`"
      only=$2
      ;;
    --per-second) export MCPGATE_HANDSHAKES=$2 ;;
    --seconds) export MCPGATE_HANDSHAKE_SECONDS=$2 ;;
    *) fail "there is no option $1; see the first lines of this script" ;;
  esac
  shift 2
done

folder=$(mktemp -d)
gateway_pid=
finish() {
  [[ -z $gateway_pid ]] || stop "$gateway_pid"
  rm -rf "$folder"
}
trap finish EXIT

# Longest time of testssl.sh, in seconds.
TESTSSL_TIMEOUT=900

run_testssl() {
  local gateway=$GATEWAY port options=() status=0
  if ! install_testssl; then
    say "testssl.sh is missing; install it, or run this as root on a system with apt"
    return 1
  fi
  if [[ -n $quick ]]; then
    cargo build --locked --quiet || fail "cargo build failed"
    gateway=$TARGET/debug/mcpgate
    # All but what each of hundreds of ciphers, and of simulated clients, would get.
    options=(--protocols --std --fs --server-preference --server-defaults --headers --vulnerable)
  else
    build_release
  fi
  build_helper
  port=$(free_port)
  (
    # In a folder of its own, so that no other gateway.conf is found.
    cd "$folder"
    "$gateway" tls self-signed localhost 127.0.0.1 >gateway.conf
    export LISTEN=127.0.0.1:$port API_KEY=tls-$RANDOM$RANDOM LOG_LEVEL=WARNING DATA_DIR=$folder/data
    exec "$gateway" -- "$HELPER"
  ) 2>"$folder/gateway.log" &
  gateway_pid=$!
  if ! wait_until 15 is_up "$port"; then
    cat "$folder/gateway.log" >&2
    fail "the gateway did not begin to listen"
  fi
  timeout "$TESTSSL_TIMEOUT" testssl --quiet --color 0 --warnings off --nodns none --jsonfile "$folder/found.json" \
    "${options[@]}" "127.0.0.1:$port" >"$folder/testssl.txt" 2>&1 || status=$?
  # Its own status counts what it found; what matters is found out below.
  if [[ $status == 124 || ! -s $folder/found.json ]]; then
    tail -n 20 "$folder/testssl.txt" >&2
    fail "testssl.sh came to no end (status $status)"
  fi
  if is_over "$gateway_pid" || grep -q panicked "$folder/gateway.log"; then
    cat "$folder/gateway.log" >&2
    fail "the gateway did not survive testssl.sh"
  fi
  stop "$gateway_pid"
  gateway_pid=
  python3 "$ROOT/scripts/lib/testssl.py" "$folder/found.json"
}

is_up() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

run_handshakes() {
  local profile=(--release)
  [[ -z $quick ]] || profile=()
  MCPGATE_SLOW_TESTS=1 cargo test --locked --quiet "${profile[@]}" --test slow -- --nocapture handshakes::
}

failed=0
[[ $only == handshakes ]] || run_testssl || failed=1
[[ $only == testssl ]] || run_handshakes || failed=1
[[ $failed == 0 ]]
