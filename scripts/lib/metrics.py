"""Asks the Prometheus of scripts/metrics.sh: are all calls there, and can every rule and every panel be evaluated?

    metrics.py URL DASHBOARD GOOD BAD

Nothing but the standard library.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

PATIENCE_S = 60

# What stands for the dashboard's variables.
VARIABLES = {"$__rate_interval": "10s", "$job": "mcpgate", "$instance": ".*", "$server": ".*"}


def ask(url, path, **query):
    """What Prometheus answers; its own message when it refuses."""
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(address, timeout=10) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{query or path}: {error.read().decode()}") from error


def wait_for(what, look):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            found = look()
        except (urllib.error.URLError, ConnectionError):
            found = None
        if found:
            return found
        if deadline < time.monotonic():
            raise SystemExit(f"waited {PATIENCE_S} s for: {what}")
        time.sleep(0.1)


def value_of(url, expression):
    result = ask(url, "query", query=expression)["result"]
    return float(result[0]["value"][1]) if result else None


def main():
    url, dashboard, good, bad = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

    wait_for("the gateway to be scraped", lambda: value_of(url, 'up{job="mcpgate"}') == 1)
    for expression, expected in [
        ('sum(mcpgate_tool_calls_total{code="ok"})', good),
        ('sum(mcpgate_tool_calls_total{code="tool_error"})', bad),
        ("sum(mcpgate_tool_call_duration_seconds_count)", good + bad),
        ("sum(mcpgate_key_calls_total)", good + bad),
        ("sum(mcpgate_calls_total)", good + bad),
    ]:
        found = value_of(url, expression)
        if found != expected:
            raise SystemExit(f"{expression} is {found}, not {expected}")
    units = ask(url, "metadata", metric="mcpgate_tool_call_duration_seconds")["mcpgate_tool_call_duration_seconds"]
    if units[0]["unit"] != "seconds":
        raise SystemExit(f"it was not scraped as OpenMetrics: {units}")
    print(f"  {good} calls with a result and {bad} without are all there")

    def evaluated():
        rules = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_for("every rule to be evaluated", evaluated)
    for rule in rules:
        if rule["health"] != "ok" or rule["state"] == "firing":
            raise SystemExit(f"{rule['name']}: {rule['health']}, {rule['state']}, {rule.get('lastError')}")
    print(f"  {len(rules)} rules can be evaluated, and none fires")

    with open(dashboard, encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    for expression in expressions:
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        ask(url, "query", query=expression)
    print(f"  {len(expressions)} expressions of the dashboard can be evaluated")


main()
