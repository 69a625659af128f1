#!/usr/bin/env bash
# Tries what Prometheus and Grafana are given: the metrics, the alert rules, and the dashboard.
#
#   ./scripts/metrics.sh [--quick]
#
# promtool reads /metrics of a gateway after a known load, and the rules with their tests. Then a real Prometheus on
# loopback scrapes the gateway, in OpenMetrics, and is asked whether every rule and every panel of the dashboard can be
# evaluated and the calls are all there. It takes seconds. With --quick it runs the build that `cargo test` has made
# anyway. Prometheus is fetched into target/ if it is missing.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

quick=false
case ${1:-} in
  '') ;;
  --quick) quick=true ;;
  *) fail "there is no option $1; see the first lines of this script" ;;
esac

# Calls that succeed, and calls that fail.
GOOD_CALLS=20
BAD_CALLS=5
KEY=metrics-key

folder=$(mktemp -d)
gateway_pid=
prometheus_pid=
finish() {
  [[ -z $prometheus_pid ]] || stop "$prometheus_pid"
  [[ -z $gateway_pid ]] || stop "$gateway_pid"
  rm -rf "$folder"
}
trap finish EXIT

install_prometheus || fail "Debian's package prometheus is missing, and only root on a system with apt can fetch it"
promtool=$PROMETHEUS/promtool

echo "rules:"
"$promtool" check rules scripts/alerts.yml
(cd scripts && "$promtool" test rules alerts_test.yml)

if $quick; then
  cargo build --locked --quiet
  gateway=$TARGET/debug/mcpgate
else
  build_release
  gateway=$GATEWAY
fi
port=$(free_port)
url=http://127.0.0.1:$port
(
  # In a folder of its own, so that no gateway.conf is found.
  cd "$folder"
  LISTEN=127.0.0.1:$port API_KEY=$KEY DATA_DIR=$folder/data exec "$gateway" serve
) 2>"$folder/gateway.log" &
gateway_pid=$!

is_ready() { curl --silent --fail --max-time 5 "$url/health/ready"; }
is_ready_or_over() { is_over "$gateway_pid" || is_ready; }
if ! wait_until 60 is_ready_or_over || ! is_ready >/dev/null; then
  cat "$folder/gateway.log" >&2
  fail "the gateway did not become healthy"
fi

call() {
  curl --silent --show-error --output /dev/null -X POST "$url/tools/journeys_tool" -H "X-API-Key: $KEY" \
    -H 'Content-Type: application/json' -d "$1"
}
for ((i = 0; i < GOOD_CALLS; i++)); do call '{"arguments": {"action": "list"}}'; done
for ((i = 0; i < BAD_CALLS; i++)); do call '{"arguments": {"action": "get", "id": "nobody-knows"}}'; done

echo "metrics:"
curl --silent --show-error --fail -H "Authorization: Bearer $KEY" "$url/metrics" >"$folder/metrics.txt"
"$promtool" check metrics <"$folder/metrics.txt"
echo "  SUCCESS: $(grep -c '^# TYPE' "$folder/metrics.txt") metrics"

prometheus_port=$(free_port)
cat >"$folder/prometheus.yml" <<YAML
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files:
  - $ROOT/scripts/alerts.yml
scrape_configs:
  - job_name: mcpgate
    authorization:
      credentials: $KEY
    static_configs:
      - targets: ["127.0.0.1:$port"]
YAML
"$promtool" check config "$folder/prometheus.yml" >/dev/null
"$PROMETHEUS/prometheus" --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/tsdb" \
  --web.listen-address="127.0.0.1:$prometheus_port" --log.level=warn 2>"$folder/prometheus.log" &
prometheus_pid=$!
echo "in Prometheus:"
python3 scripts/lib/metrics.py "http://127.0.0.1:$prometheus_port" scripts/grafana-dashboard.json $GOOD_CALLS $BAD_CALLS || {
  cat "$folder/prometheus.log" >&2
  exit 1
}
