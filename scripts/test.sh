#!/usr/bin/env bash
# Runs every check there is, and installs what they need and is missing (into target/; system packages only as root).
#
# Where something cannot be installed, the checks that need it are left out and named at the end; with CI=true that is
# a failure. Advisory data that cannot be had is named too, and is never a failure.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

export MCPGATE_TOOLS=$TOOLS
passed=0
failed=()
gateway_pid=
folder=$(mktemp -d)

finish() {
  [[ -z $gateway_pid ]] || stop "$gateway_pid"
  rm -rf "$folder"
}
trap finish EXIT

# step NAME COMMAND...: runs it; a failure is remembered and the others still run.
step() {
  local name=$1
  shift
  say ""
  say "--- $name"
  if "$@"; then
    passed=$((passed + 1))
  else
    say "FAILED: $name"
    failed+=("$name")
  fi
}

install_what_is_missing() {
  system_package curl curl || leave_out "integration_test.sh and the curl example: curl is missing"
  install_node_servers || leave_out "tests with servers from npm: npm or its registry is missing"
  install_fastmcp || leave_out "tests with FastMCP: Python or its package index is missing"
  install_python_clients || leave_out "the Python examples: Python or its package index is missing"
  install_node_clients || leave_out "the Node examples: Node, npm or its registry is missing"
  install_mcp_clients || leave_out "MCP clients from npm: Node, npm or its registry is missing"
  install_testssl || leave_out "tls.sh: testssl.sh, or Python to read what it says, is missing"
  system_package slowhttptest slowhttptest || leave_out "slow clients: slowhttptest is missing"
  system_package systemd-analyze systemd || leave_out "the check of the systemd unit: systemd-analyze is missing"
  system_package strace strace || leave_out "what the gateway writes to: strace is missing"
  install_openapi_readers || leave_out "readers of /openapi.json: Python, Node or their packages are missing"
  install_bridge || leave_out "the bridge for clients that start programs: Node, npm or its registry is missing"
  install_nginx || leave_out "the proxy of the guides: Debian's package nginx is missing"
  install_prometheus || leave_out "prometheus.yml of the guides: Debian's package prometheus is missing"
  system_package sqlite3 sqlite3 || leave_out "the guides' backup: sqlite3 is missing"
  install_page_drivers || leave_out "tests of pages: Node, npm or its registry is missing"
  install_browser || leave_out "the examples for a browser: chromium is missing"
}

build_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet; }

has_no_async_runtime() {
  local tree found
  # Only what the crate itself brings in when it is built, with its default features.
  tree=$(cargo tree --locked --edges normal --prefix none --format '{p}') || return 1
  found=$(grep -E '^(tokio|async-std|smol) ' <<<"$tree") || return 0
  say "in the tree: $found"
  return 1
}

# Advisories come from a database on the network, which a closed network does not give.
advisory_data_can_be_had() {
  GIT_TERMINAL_PROMPT=0 timeout 30 git ls-remote --quiet --exit-code https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1
}

install_cargo_audit() {
  export PATH=$PATH:$TOOLS/cargo/bin
  has cargo-audit || cargo install --quiet --locked --root "$TOOLS/cargo" cargo-audit
}

is_healthy() { curl --silent --fail --max-time 5 "$1/health"; }

# The README's first steps: the script starts the bundled server, and its examples work.
try_the_readme() {
  local port url log=$folder/gateway.log
  port=$(free_port)
  url=http://127.0.0.1:$port
  LISTEN=127.0.0.1:$port DATA_DIR=$folder/data "$ROOT/scripts/start_gateway.sh" 2>"$log" &
  gateway_pid=$!
  if ! wait_until 600 is_up_or_over "$url" || ! is_healthy "$url" >/dev/null; then
    say "the gateway did not become healthy:"
    cat "$log" >&2
    return 1
  fi
  local result=0
  GATEWAY_URL=$url API_KEY=${API_KEY:-super-secret} "$ROOT/scripts/integration_test.sh" >&2 || result=1
  [[ $result == 0 ]] || cat "$log" >&2
  stop "$gateway_pid"
  gateway_pid=
  return $result
}

is_up_or_over() { is_over "$gateway_pid" || is_healthy "$1"; }

advisories=
install_what_is_missing
step "format" cargo fmt --all --check
step "lints" cargo clippy --locked --all-targets --quiet -- -D warnings
step "documentation" build_docs
step "tests" cargo test --locked
if system_package valgrind valgrind; then
  step "instructions" "$ROOT/scripts/instructions.sh"
else
  leave_out "instructions.sh: valgrind is missing"
fi
step "soak, short" "$ROOT/scripts/soak.sh" --quick
if has testssl; then
  step "TLS from outside, short" "$ROOT/scripts/tls.sh" --only testssl --quick
fi
step "hostile clients, short" "$ROOT/scripts/hostile.sh" --quick --only slow
step "malformed requests" "$ROOT/scripts/hostile.sh" --quick --only malformed
step "no async runtime" has_no_async_runtime
if install_conformance; then
  step "conformance" "$ROOT/scripts/conformance.sh"
else
  leave_out "conformance: npm or its registry is missing"
fi
if ! advisory_data_can_be_had; then
  advisories="advisory data could not be had, so dependencies were not checked against it"
elif install_cargo_audit; then
  step "advisories" cargo audit --quiet
else
  leave_out "advisories: cargo-audit could not be installed"
fi
if has dpkg-deb && has curl && install_cargo_deb; then
  step "the package" "$ROOT/scripts/package.sh" --small
else
  leave_out "the package: dpkg-deb, curl or cargo-deb is missing"
fi
if has curl && has python3 && install_prometheus; then
  step "metrics" "$ROOT/scripts/metrics.sh" --quick
else
  leave_out "metrics: curl, Python or Debian's package prometheus is missing"
fi
if has curl; then
  step "the README's examples" try_the_readme
fi

say ""
[[ -z $advisories ]] || say "note: $advisories"
for sentence in "${LEFT_OUT[@]}"; do say "left out: $sentence"; done
for name in "${failed[@]}"; do say "failed: $name"; done
echo "$passed passed, ${#failed[@]} failed"
[[ ${#failed[@]} == 0 ]] || exit 1
if [[ ${CI:-} == true && ${#LEFT_OUT[@]} != 0 ]]; then
  fail "with CI=true nothing may be left out"
fi
