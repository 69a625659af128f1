#!/usr/bin/env bash
# What `scripts/bench.sh --peers` and `--curves` do: its first lines say what can be given. A run leaves a folder under bench/runs.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"

kind=$1
command="./scripts/bench.sh --$*"
shift
name=$kind
rounds=3
seconds=3
connections="1 16 64"
wanted=()
while [[ $# != 0 ]]; do
  case $1 in
    --name | --rounds | --seconds | --connections)
      [[ $# != 1 ]] || fail "$1 needs a value"
      declare "${1#--}=$2"
      shift
      ;;
    -*) fail "there is no option $1; see the first lines of scripts/bench.sh" ;;
    *) wanted+=("$1") ;;
  esac
  shift
done

write_machine() {
  local model
  model=$(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
  echo "$(nproc) cores (${model:-unknown}), $(awk '/^MemTotal:/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo) GiB, $(uname -srm)"
}

write_versions() {
  "$GATEWAY" --version
  if [[ -n ${MCPGATE_BINARY:-} ]]; then
    echo "built elsewhere (MCPGATE_BINARY), so of which commit and with which rustc is not known here"
  else
    echo "commit $(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)$(git -C "$ROOT" diff --quiet HEAD -- src Cargo.lock 2>/dev/null || echo ', with changes')"
    rustc --version
  fi
  { wrk -v 2>&1 || true; } | awk 'NR == 1 { print $1, $2 }'
  [[ $kind == peers ]] || return 0
  echo "node $(node --version)"
  "$PEERS/mcpo/bin/python" --version
  printf '%s\n' "${PEER_PACKAGES[@]}" | sed -E 's/^(\S+) \S+ /\1: /; s/^node/npm/; s/^python/PyPI/; s/^cargo/crates.io/'
  echo "comparator: axum and the official Rust SDK (rmcp) $(grep -A1 'name = "rmcp"' "$TARGET/comparator/Cargo.lock" 2>/dev/null | awk -F '"' '/version/ { print $2 }')"
}

system_package wrk wrk || fail "wrk is missing; install it, or run this as root on a system with apt"
system_package python3 python3 || fail "python3 is missing; install it, or run this as root on a system with apt"
build_helper
build_release
comparator=
if [[ $kind == peers ]]; then
  install_peers || fail "not every peer could be installed"
  if build_comparator; then comparator=$COMPARATOR; else say "note: ../shared/bench/comparator is missing, and not measured"; fi
fi

run=$ROOT/bench/runs/$(date +%F)-$name
mkdir -p "$run"
write_machine >"$run/machine.txt"
write_versions >"$run/versions.txt"
export PYTHONDONTWRITEBYTECODE=1
case $kind in
  peers)
    python3 "$ROOT/scripts/lib/peers.py" "$run" "$PEERS" "$GATEWAY" "$HELPER" "$comparator" "$rounds" "$seconds" "$connections" "${wanted[@]}"
    python3 "$ROOT/scripts/lib/report.py" "$run" peers "mcpgate and other gateways, one run" "$command"
    ;;
  curves)
    ulimit -n "$(ulimit -Hn)"
    python3 "$ROOT/scripts/lib/curves.py" "$run" "$GATEWAY" "$HELPER" "$rounds" "$seconds" "${wanted[@]}"
    python3 "$ROOT/scripts/lib/report.py" "$run" curves "What a call costs, and what it does not grow with" "$command"
    ;;
esac
sed -n '/^|/p' "$run/README.md"
say "written to ${run#"$ROOT"/}"
