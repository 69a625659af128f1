#!/usr/bin/env bash
# Runs the tests of tests/slow/ and shows what they measure: faults in a storm of calls, and leaks over many calls.
#
#   ./scripts/soak.sh [--seconds 10] [--calls 20000] [--sessions 300] [--only chaos|soak|sessions|handshakes] [--quick]
#
# chaos: 32 clients call without pause for so many seconds, while every half second a worker is killed, stopped or made
# to exit. soak: so many calls, with recycling, crashes, timeouts and clients that leave mixed in; a table shows memory
# (PSS), descriptors, threads, processes and zombies along the way. sessions: so many sessions with a worker of their
# own, one after another. handshakes: new TLS connections beside calls. As it stands it takes half a minute after building; the long form is
#
#   ./scripts/soak.sh --seconds 60 --calls 1000000 --sessions 10000
#
# It runs a release build; with --quick the one that `cargo test` has built anyway. MCPGATE_SLOW_SEED=N makes the same
# random choices as a run before. It fails when one of the tests does.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

profile=(--release)
only=(chaos:: soak:: sessions:: mcp:: handshakes::)
while [[ $# != 0 ]]; do
  if [[ $1 == --quick ]]; then
    profile=()
    shift
    continue
  fi
  [[ $# != 1 ]] || fail "$1 needs a value"
  case $1 in
    --seconds) export MCPGATE_CHAOS_SECONDS=$2 ;;
    --calls) export MCPGATE_SOAK_CALLS=$2 ;;
    --sessions) export MCPGATE_SOAK_SESSIONS=$2 ;;
    --only)
      case $2 in
        chaos | soak | sessions | handshakes) only=("$2::") ;;
        *) fail "--only takes chaos, soak, sessions or handshakes, got \`$2\`" ;;
      esac
      ;;
    *) fail "there is no option $1; see the first lines of this script" ;;
  esac
  shift 2
done

export MCPGATE_SLOW_TESTS=1
# Each test is alone, and what it prints is what this script is for.
cargo test --locked --quiet "${profile[@]}" --test slow -- --nocapture --test-threads=1 "${only[@]}"
