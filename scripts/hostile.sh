#!/usr/bin/env bash
# Attacks a running gateway on loopback and shows what was tried and what was held.
#
#   ./scripts/hostile.sh [--seconds 60] [--requests 1000000] [--only slow|malformed|requests] [--quick]
#
# slow: 500 clients of `slowhttptest` (installed when it is missing and that can be done) in each of its modes, for so many
# seconds, beside a normal client whose calls must all succeed; from 30 seconds on its p99 may be three times that of a
# quiet gateway. malformed: so many requests, WebSocket frames and messages of /mcp made from the seeds of fuzz/, over real
# sockets. requests: smuggling, full and exhausted gateways, and requests of every kind to every endpoint.
#
# It runs a release build; with --quick the one that `cargo test` has built anyway, for 3 seconds and 20000 requests.
# MCPGATE_SLOW_SEED=N makes the same random choices as a run before. It fails when something was not held.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

profile=(--release)
seconds=60
requests=1000000
only=
while [[ $# != 0 ]]; do
  if [[ $1 == --quick ]]; then
    profile=() seconds=3 requests=20000
    shift
    continue
  fi
  [[ $# != 1 ]] || fail "$1 needs a value"
  case $1 in
    --seconds) seconds=$2 ;;
    --requests) requests=$2 ;;
    --only)
      case $2 in
        slow | malformed | requests) only=$2 ;;
        *) fail "--only takes slow, malformed or requests, got \`$2\`" ;;
      esac
      ;;
    *) fail "there is no option $1; see the first lines of this script" ;;
  esac
  shift 2
done

run() { [[ -z $only || $only == "$1" ]]; }

# tests BINARY FILTER...: each alone, with what it prints.
tests() {
  local binary=$1
  shift
  cargo test --locked --quiet "${profile[@]}" --test "$binary" -- --nocapture --test-threads=1 "$@"
}

export MCPGATE_SLOW_TESTS=1 MCPGATE_SLOW_SECONDS=$seconds MCPGATE_MALFORMED=$requests
if run slow; then
  system_package slowhttptest slowhttptest || say "slowhttptest is missing"
  tests slow slow_clients::
fi
if run malformed; then tests slow malformed::; fi
if run requests; then tests it smuggling:: connections:: contract::; fi
