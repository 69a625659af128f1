"""Measures gateways side by side before the same server program, for `scripts/bench.sh --peers`.

    peers.py FOLDER TOOLS GATEWAY HELPER COMPARATOR ROUNDS SECONDS CONNECTIONS [NAME...]

FOLDER takes rounds.tsv, programs.tsv and versions.txt. COMPARATOR may be empty. CONNECTIONS is a list with blanks in it, the
NAMEs say which programs are measured (all). Nothing but the standard library, and wrk.

Each program runs one server process and is asked in the way it speaks: MCP's Streamable HTTP, all calls in one session, or calls over
REST. They take turns, round by round. CPU and memory are those of the program with all its processes, without the server's.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE_S = 60
SCHEMA = '{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}'
KEY = f"bench-{os.getpid()}"
TICKS = os.sysconf("SC_CLK_TCK")

# What programs are asked in one session at a time, with ids that no two calls in flight share.
WRK_SCRIPT = """
local n_threads = 0
function setup(thread)
  thread:set("first_id", n_threads * 1000000)
  n_threads = n_threads + 1
end
local requests, n = {}, 0
function init()
  local headers = HEADERS
  for i = 1, 4096 do
    requests[i] = wrk.format("POST", "PATH", headers, (string.gsub('BODY', "ID", tostring(first_id + i))))
  end
end
function request()
  n = n % 4096 + 1
  return requests[n]
end
function done(summary, latency)
  local errors = summary.errors
  print(string.format("MEASURED %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
CHECK
"""

# Looks into each answer, which costs wrk too much to be done while it measures.
CHECK = """
wrong = 0
local threads = {}
local set_up = setup
function setup(thread)
  set_up(thread)
  table.insert(threads, thread)
end
function response(status, headers, body)
  if status ~= 200 or not string.find(body, "hello", 1, true) then wrong = wrong + 1 end
end
function done(summary)
  local errors, n = summary.errors, 0
  for _, thread in ipairs(threads) do n = n + thread:get("wrong") end
  print(string.format("CHECKED %d %d", summary.requests, n + errors.connect + errors.read + errors.write + errors.timeout))
end
"""


class Program:
    """A gateway: how it is started, and how it is asked."""

    def __init__(self, name, package, protocol, command, path="/mcp", tool="echo", env=None, config=None):
        self.name, self.package, self.protocol = name, package, protocol
        self.command, self.path, self.tool, self.env = command, path, tool, env or {}
        self.config = config
        self.session = None
        self.process = None

    def start(self, port, folder):
        self.port = port
        log = open(folder / f"{self.name}.log", "wb")
        command = [str(part).replace("PORT", str(port)) for part in self.command]
        env = {**os.environ, **{name: value.replace("PORT", str(port)) for name, value in self.env.items()}}
        if self.config:
            name, text = self.config
            (folder / name).write_text(text.replace("PORT", str(port)))
        started_at = time.monotonic()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=env, start_new_session=True
        )
        # Tried again at once: a wait between two tries would be measured as well.
        while time.monotonic() < started_at + PATIENCE_S:
            if self.process.poll() is not None:
                break
            try:
                self.open()
                self.first_answer_ms = (time.monotonic() - started_at) * 1000
                return
            except (OSError, ValueError, http.client.HTTPException):
                time.sleep(0.002)
        raise SystemExit(f"{self.name} did not answer a call:\n{(folder / f'{self.name}.log').read_text()[-3000:]}")

    def open(self):
        """Opens the session, if it has any, and makes one call."""
        if self.protocol == "MCP":
            self.session = None
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
            head, body = self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
            found = re.search(r"^mcp-session-id: *(\S+)", head, re.IGNORECASE | re.MULTILINE)
            self.session = found and found[1]
            self.revision = re.search(r'"protocolVersion": *"([^"]+)"', body)[1]
            self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        _, body = self.post(json.loads(self.call().replace("ID", "1")))
        if "hello" not in body:
            raise ValueError(body)

    def call(self):
        if self.protocol == "MCP":
            params = {"name": self.tool, "arguments": {"text": "hello"}}
            body = {"jsonrpc": "2.0", "id": "ID", "method": "tools/call", "params": params}
            return json.dumps(body, separators=(",", ":")).replace('"ID"', "ID")
        if self.name == "mcpo":
            return '{"text":"hello"}'
        return '{"arguments":{"text":"hello"}}'

    def headers(self):
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json", "X-API-Key": KEY}
        if self.protocol == "MCP":
            headers["Accept"] = "application/json, text/event-stream"
            if self.session:
                headers |= {"Mcp-Session-Id": self.session, "MCP-Protocol-Version": self.revision}
        return headers

    def post(self, message):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("POST", self.path, json.dumps(message), self.headers())
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        if answer.status not in (200, 202):
            raise ValueError(body)
        return str(answer.headers), body

    def wrk(self, n, seconds, folder, check=""):
        headers = "{" + ", ".join(f'["{name}"] = "{value}"' for name, value in self.headers().items()) + "}"
        script = WRK_SCRIPT.replace("HEADERS", headers).replace("PATH", self.path).replace("BODY", self.call())
        path = folder / f"{self.name}.lua"
        path.write_text(script.replace("CHECK", check))
        command = ["wrk", "-t", str(min(n, 2)), "-c", str(n), "-d", f"{seconds}s", "--timeout", "10s", "-s", path]
        process = subprocess.Popen([*command, f"http://127.0.0.1:{self.port}"], stdout=subprocess.PIPE, text=True)
        time.sleep(seconds * 0.8)
        loaded_kb = self.pss_kb()
        said = process.communicate()[0]
        found = re.search(r"^(?:MEASURED|CHECKED) (.*)$", said, re.MULTILINE)
        if not found:
            raise SystemExit(f"wrk said of {self.name}: {said}")
        return [int(number) for number in found[1].split()], loaded_kb

    def check(self, folder):
        """How many of the answers under load are none."""
        (requests, wrong), _ = self.wrk(16, 1, folder, CHECK)
        return requests, wrong

    def measure(self, n, seconds, folder):
        cpu = self.cpu_s()
        (requests, duration_us, p50_us, p99_us, errors), loaded_kb = self.wrk(n, seconds, folder)
        cpu = self.cpu_s() - cpu
        if requests == 0:
            return 0, 0, 0, errors, 0, loaded_kb
        return requests / duration_us * 1e6, p50_us, p99_us, errors, cpu * 1e6 / requests, loaded_kb

    def processes(self):
        """Its own, without the server's."""
        children = {}
        for entry in Path("/proc").iterdir():
            try:
                text = (entry / "stat").read_text() if entry.name.isdigit() else ""
            except OSError:
                text = ""
            if text:
                name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
                children.setdefault(int(fields[1]), []).append((int(entry.name), name))
        own, left = [], [self.process.pid]
        while left:
            pid = left.pop()
            own.append(pid)
            left += [child for child, name in children.get(pid, []) if name != "helper"]
        return own

    def cpu_s(self):
        ticks = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def pss_kb(self):
        texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.processes())
        return sum(int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE)[1]) for text in texts)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        # Its session is its own, so nothing else is in the group.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def programs(tools, gateway, helper, comparator, folder):
    """All that are measured. `scripts/lib/tools.sh` has the versions."""
    server = [helper, "--schema", SCHEMA]
    servers = {"mcpServers": {"helper": {"command": helper, "args": server[1:]}}}
    (folder / "servers.json").write_text(json.dumps(servers))
    (folder / "helper.sh").write_text(f"#!/bin/sh\nexec {helper} --schema '{SCHEMA}'\n")
    (folder / "helper.sh").chmod(0o755)
    proxy_toml = (
        '[proxy]\nname = "bench"\nseparator = "/"\n[proxy.listen]\nhost = "127.0.0.1"\nport = PORT\n'
        f'[[backends]]\nname = "helper"\ntransport = "stdio"\ncommand = "{folder}/helper.sh"\nargs = []\n'
    )
    fastmcp = (
        "from fastmcp.server import create_proxy\nimport json\n"
        "create_proxy(json.load(open('servers.json'))).run(transport='http', host='127.0.0.1', port=PORT, show_banner=False,"
        " log_level='warning')"
    )
    env = {"LISTEN": "127.0.0.1:PORT", "API_KEY": KEY, "LOG_LEVEL": "WARNING", "MIN_WORKERS": "1", "MAX_WORKERS": "1"}
    node = tools / "node/node_modules/.bin"
    ours = [gateway, "--", *server]
    found = [
        Program("mcpgate-rest", "mcpgate", "REST", ours, "/tools/echo", env=env),
        Program("mcpgate-mcp", "mcpgate", "MCP", ours, env=env),
        Program("crates-mcp-proxy", "crates.io mcp-proxy", "MCP", 
                [tools / "cargo/bin/mcp-proxy", "--config", "proxy.toml"], "/", "helper/echo", config=("proxy.toml", proxy_toml)),
        Program(
            "supergateway",
            "npm supergateway",
            "MCP",
            [node / "supergateway", "--stdio", folder / "helper.sh", "--outputTransport", "streamableHttp", "--stateful",
             "--port", "PORT", "--logLevel", "none"],
        ),
        Program(
            "npm-mcp-proxy",
            "npm mcp-proxy",
            "MCP",
            [node / "mcp-proxy", "--host", "127.0.0.1", "--port", "PORT", "--server", "stream", "--", *server],
        ),
        Program(
            "pypi-mcp-proxy",
            "PyPI mcp-proxy",
            "MCP",
            [tools / "mcp-proxy/bin/mcp-proxy", "--host", "127.0.0.1", "--port", "PORT", "--log-level", "ERROR", "--", folder / "helper.sh"],
        ),
        Program("fastmcp", "PyPI fastmcp", "MCP", [tools / "fastmcp/bin/python", "-c", fastmcp]),
        Program(
            "mcpo",
            "PyPI mcpo",
            "REST",
            [tools / "mcpo/bin/mcpo", "--host", "127.0.0.1", "--port", "PORT", "--log-level", "ERROR", "--", *server],
            "/echo",
        ),
    ]
    if comparator:
        found.insert(1, Program("comparator", "comparator", "REST", [comparator, folder / "helper.sh", "PORT", "1"], "/tools/echo"))
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main(target, tools, gateway, helper, comparator, n_rounds, seconds, connections, *names):
    target, seconds = Path(target), int(seconds)
    connections = [int(n) for n in connections.split()]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        measured = programs(Path(tools).resolve(), gateway, helper, comparator, folder)
        unknown = set(names) - {program.name for program in measured}
        if unknown:
            raise SystemExit(f"there is no {', '.join(unknown)}")
        measured = [program for program in measured if not names or program.name in names]
        try:
            for program in measured:
                program.start(free_port(), folder)
            with open(target / "programs.tsv", "w") as table:
                print("program\tpackage\tprotocol\tfirst_answer_ms\tidle_pss_kb\tchecked\twrong", file=table)
                for program in measured:
                    # Until its start is over.
                    time.sleep(2)
                    idle_kb = program.pss_kb()
                    n_checked, n_wrong = program.check(folder)
                    row = program.name, program.package, program.protocol, f"{program.first_answer_ms:.1f}", idle_kb, n_checked, n_wrong
                    print(*row, sep="\t", file=table, flush=True)
            with open(target / "rounds.tsv", "w") as table:
                print("program\tconnections\tround\tcalls_per_s\tp50_us\tp99_us\terrors\tcpu_us_per_call\tpss_kb", file=table)
                for n_round in range(1, int(n_rounds) + 1):
                    for n in connections:
                        for program in measured:
                            calls, p50, p99, errors, cpu, kb = program.measure(n, seconds, folder)
                            row = program.name, n, n_round, f"{calls:.0f}", p50, p99, errors, f"{cpu:.2f}", kb
                            print(*row, sep="\t", file=table, flush=True)
        finally:
            for program in measured:
                program.stop()


main(*sys.argv[1:])
