#!/usr/bin/env bash
# Runs the official MCP conformance suite against the gateway, with the server of tests/conformance/ behind it.
#
#   ./scripts/conformance.sh [--isolation shared|session] [--results FOLDER] [--url URL]
#
# Twice, with the server's workers shared and with one for each session, unless one of the two is asked for. Each time:
# all that the released suite has, all that revisions 2025-11-25 and 2026-07-28 require, and the two scenarios about
# headers that none requires yet. One line says how each went; failures and warnings stand below it. No failure is
# expected, so each is one. --results keeps what the suite has written; --url tries an endpoint that is running already,
# without keys, and starts nothing. What is missing is installed into target/.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

isolations=(shared session)
results=
url=
while [[ $# != 0 ]]; do
  [[ $# != 1 ]] || fail "$1 needs a value"
  case $1 in
    --isolation)
      [[ $2 == shared || $2 == session ]] || fail "--isolation takes shared or session, got \`$2\`"
      isolations=("$2")
      ;;
    --results) results=$(realpath -m "$2") ;;
    --url) url=$2 ;;
    *) fail "there is no option $1; see the first lines of this script" ;;
  esac
  shift 2
done

# Longest time of one run of the suite, in seconds; it takes a few.
SUITE_TIMEOUT=300
HEADER_SCENARIOS=(http-header-validation http-custom-header-server-validation)

folder=$(mktemp -d)
results=${results:-$folder/results}
gateway_pid=
finish() {
  [[ -z $gateway_pid ]] || stop "$gateway_pid"
  rm -rf "$folder"
}
trap finish EXIT

install_conformance || fail "the conformance suite could not be installed: npm or its registry is missing"
node=$(conformance_node)
read -r released preview <<<"${CONFORMANCE_VERSIONS[*]}"
failed=0

# suite TITLE VERSION OPTION...: one run of the suite against `$url`.
suite() {
  local title=$1 version=$2 output=$results/$1 status=0
  shift 2
  rm -rf "$output"
  mkdir -p "$output"
  timeout "$SUITE_TIMEOUT" "$node" "$(conformance_suite "$version")" server --url "$url" "$@" -o "$output" \
    >"$output.txt" 2>&1 || status=$?
  report "$title" "$status" "$output"
}

# report TITLE STATUS FOLDER SCENARIO...: says how the runs into the folder went; STATUS is how the suite ended.
report() {
  local title=$1 status=$2 output=$3 summary is_good=true
  shift 3
  summary=$("$node" "$ROOT/scripts/lib/conformance.mjs" "$output" "$@") || is_good=false
  echo "$title: $summary"
  [[ $is_good == true && $status == 0 ]] && return 0
  failed=$((failed + 1))
  # Not a check, so the run itself went wrong.
  if [[ $summary != *FAILURE* ]]; then
    echo "  FAILURE the suite ended with status $status:"
    tail -n 20 "$output.txt" | sed 's/^/    /'
  fi
}

# header_scenarios TITLE: those that count for no revision yet, but for us.
header_scenarios() {
  local title=$1 output=$results/$1 status=0 scenario
  rm -rf "$output"
  mkdir -p "$output"
  for scenario in "${HEADER_SCENARIOS[@]}"; do
    timeout "$SUITE_TIMEOUT" "$node" "$(conformance_suite "$preview")" server --url "$url" --scenario "$scenario" \
      -o "$output" || status=$?
  done >"$output.txt" 2>&1
  report "$title" "$status" "$output" "${HEADER_SCENARIOS[@]}"
}

all_suites() {
  local prefix=$1
  suite "$prefix-$released" "$released" --suite all
  suite "$prefix-2025-11-25" "$preview" --requirements 2025-11-25
  suite "$prefix-2026-07-28" "$preview" --requirements 2026-07-28
  header_scenarios "$prefix-headers"
}

is_ready() {
  "$node" -e 'fetch(process.argv[1]).then((it) => process.exit(it.ok ? 0 : 1), () => process.exit(1))' "$1/health/ready"
}
is_ready_or_over() { is_over "$gateway_pid" || is_ready "$1"; }

# start_gateway ISOLATION: the gateway in front of the server, without keys.
start_gateway() {
  local isolation=$1 port
  port=$(free_port)
  url=http://127.0.0.1:$port/mcp
  printf '{"mcpServers": {"conformance": {"command": "%s", "isolation": "%s"}}}\n' \
    "$TARGET/debug/examples/conformance-server" "$isolation" >"$folder/servers.json"
  (
    # In a folder of its own, so that no gateway.conf is found.
    cd "$folder"
    export LISTEN=127.0.0.1:$port API_KEY="" MCP_SERVERS=$folder/servers.json DATA_DIR=$folder/data
    # The suite ends none of its sessions.
    export SESSION_WORKERS_MAX=200
    exec "$TARGET/debug/mcpgate"
  ) 2>"$folder/gateway.log" &
  gateway_pid=$!
  if ! wait_until 30 is_ready_or_over "${url%/mcp}" || ! is_ready "${url%/mcp}"; then
    cat "$folder/gateway.log" >&2
    fail "the gateway did not become ready"
  fi
}

if [[ -n $url ]]; then
  all_suites given
else
  cargo build --locked --quiet --bin mcpgate --example conformance-server || fail "cargo build failed"
  for isolation in "${isolations[@]}"; do
    start_gateway "$isolation"
    failed_before=$failed
    all_suites "$isolation"
    stop "$gateway_pid"
    gateway_pid=
    [[ $failed == "$failed_before" ]] || tail -n 40 "$folder/gateway.log" >&2
  done
fi
[[ $failed == 0 ]] || fail "$failed runs failed"
