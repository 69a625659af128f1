#!/usr/bin/env bash
# Tries the README's examples with curl on a gateway that is already running with the bundled server.
#
#   GATEWAY_URL=http://localhost:8000 API_KEY=super-secret ./scripts/integration_test.sh
set -euo pipefail

GATEWAY_URL=${GATEWAY_URL:-http://localhost:8000}
API_KEY=${API_KEY:-super-secret}
passed=0
failed=0

# Leaves the status in $status and the body in $body.
ask() {
  local answer
  answer=$(curl --silent --show-error --max-time 20 --write-out '\n%{http_code}' "$@" 2>&1) || true
  status=${answer##*$'\n'}
  body=${answer%$'\n'*}
}

# check NAME STATUS PATTERN CURL_ARGUMENT...: the answer has this status, and its body matches this extended pattern.
check() {
  local name=$1 expected_status=$2 pattern=$3
  shift 3
  ask "$@"
  if [[ $status == "$expected_status" && $body =~ $pattern ]]; then
    passed=$((passed + 1))
    echo "ok    $name"
  else
    failed=$((failed + 1))
    echo "FAIL  $name"
    echo "      request:  curl $*"
    echo "      expected: $expected_status, body like $pattern"
    echo "      actual:   $status ${body:0:500}"
  fi
}

journeys=$GATEWAY_URL/tools/journeys_tool
key="X-API-Key: $API_KEY"
json="Content-Type: application/json"

# call NAME STATUS PATTERN ARGUMENTS: calls the journeys tool.
call() {
  local name=$1 expected_status=$2 pattern=$3 arguments=$4
  check "$name" "$expected_status" "$pattern" -X POST "$journeys" -H "$key" -H "$json" -d "{\"arguments\": $arguments}"
}

check "the gateway is healthy" 200 '"status":"healthy"' "$GATEWAY_URL/health"
check "its process is live" 200 '' "$GATEWAY_URL/health/live"
check "it is ready" 200 '"status"' "$GATEWAY_URL/health/ready"
check "it says what it is" 200 '"name":"mcpgate"' "$GATEWAY_URL/"
check "it lists its tools" 200 '"name":"journeys_tool"' -H "$key" "$GATEWAY_URL/tools"
check "it shows one tool" 200 '"inputSchema"' -H "$key" "$journeys"
check "the key may be a bearer token" 200 '"count":' -H "Authorization: Bearer $API_KEY" "$GATEWAY_URL/tools"
check "the key may stand in the URL" 200 '"count":' "$GATEWAY_URL/tools?api_key=$API_KEY"
check "without a key there is nothing to see" 401 '"code":"unauthorized"' "$GATEWAY_URL/tools"
check "a wrong key is refused" 401 '"code":"unauthorized"' -H 'X-API-Key: wrong' "$GATEWAY_URL/tools"
call "journeys are listed" 200 '"status":"success"' '{"action": "list"}'

name="integration test $$"
call "a journey is created" 200 "$name" "{\"action\": \"create\", \"name\": \"$name\", \"description\": \"from a script\"}"
id=none
[[ $body =~ \"journey\":\{\"id\":\"([^\"]+) ]] && id=${BASH_REMATCH[1]}
# More calls than workers: each of them must see it.
for round in 1 2 3 4; do
  call "the new journey is listed (call $round)" 200 "$name" "{\"action\": \"list\", \"query\": \"$name\"}"
done
call "the new journey is shown" 200 "$name" "{\"action\": \"get\", \"id\": \"$id\"}"
call "the new journey is deleted" 200 '"status":"success"' "{\"action\": \"delete\", \"id\": \"$id\"}"
call "a deleted journey is gone" 422 '"code":"tool_error"' "{\"action\": \"get\", \"id\": \"$id\"}"

check "an unknown tool gets its close names" 404 'journeys_tool' -X POST "$GATEWAY_URL/tools/journey_tool" -H "$key" -d '{}'
check "bad JSON is named as such" 400 '"code":"invalid_json"' -X POST "$journeys" -H "$key" -d '{"arguments": '
check "a wrong method says what to use" 405 '"code":"method_not_allowed"' -X DELETE "$journeys" -H "$key"
check "an unknown path points to the list" 404 '"code":"not_found"' -H "$key" "$GATEWAY_URL/nothing"
check "statistics count the calls" 200 '"servers":' -H "$key" "$GATEWAY_URL/stats"

echo "$passed passed, $failed failed"
[[ $failed == 0 ]]
