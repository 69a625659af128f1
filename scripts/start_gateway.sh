#!/usr/bin/env bash
# Builds the gateway if needed and starts it. Arguments go to `mcpgate`; settings come from the environment or gateway.conf.
#
#   ./scripts/start_gateway.sh
#   ./scripts/start_gateway.sh --port 9000 -- npx -y @modelcontextprotocol/server-everything
#   MIN_WORKERS=4 ./scripts/start_gateway.sh
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"

has cargo || fail "cargo is missing; install Rust from https://rustup.rs"
build_release
# The gateway takes this shell's place, so that signals reach it.
exec "$GATEWAY" "$@"
