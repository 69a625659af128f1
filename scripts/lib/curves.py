"""Measures how what a call costs goes with connections, workers, tools and the size of results, for `scripts/bench.sh --curves`.

    curves.py FOLDER GATEWAY HELPER ROUNDS SECONDS [AXIS...]

FOLDER takes curves.tsv. Nothing but the standard library, and wrk. The CPU is that of the gateway's own process, without its workers.
"""

import base64
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PATIENCE_S = 30
WARM_UP_S = 1
KEY = f"curves-{os.getpid()}"
TICKS = os.sysconf("SC_CLK_TCK")
REVISION = "2025-11-25"

WRK_SCRIPT = """
wrk.method = "POST"
wrk.body = 'BODY'
HEADERS
function done(summary, latency)
  local errors = summary.errors
  print(string.format("MEASURED %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""


class Gateway:
    """A running gateway."""

    def __init__(self, folder, gateway, helper, args=(), **settings):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        workers = str(settings.pop("workers", 2))
        env = {
            **os.environ, "LISTEN": f"127.0.0.1:{self.port}", "API_KEY": KEY, "LOG_LEVEL": "WARNING", "CONNECTIONS_MAX": "1200",
            "MIN_WORKERS": workers, "MAX_WORKERS": workers, "WORKER_LINE_MAX": "64M", **settings,
        }
        self.folder = folder
        self.log = open(folder / "gateway.log", "wb")
        self.process = subprocess.Popen([gateway, "--", helper, *args], env=env, cwd=folder, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health") as answer:
                    workers_now = json.load(answer)["workers"]
                if workers_now["ready"] == int(workers):
                    # Until its start is over.
                    time.sleep(1.5)
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise SystemExit(f"the gateway did not get ready: {(folder / 'gateway.log').read_text()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def pss_kb(self):
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE)[1])

    def wrk(self, n, seconds, body, path="/tools/echo", headers=()):
        """Calls/s, p50 and p99 in us, errors, CPU in us per call, PSS under load in kB."""
        lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in [*self.headers().items(), *headers]]
        script = self.folder / "wrk.lua"
        script.write_text(WRK_SCRIPT.replace("BODY", body).replace("HEADERS", "\n".join(lines)))
        cpu = self.cpu_s()
        command = ["wrk", "-t", str(min(n, 2)), "-c", str(n), "-d", f"{seconds}s", "--timeout", "10s", "-s", script]
        process = subprocess.Popen([*command, f"http://127.0.0.1:{self.port}{path}"], stdout=subprocess.PIPE, text=True)
        time.sleep(seconds * 0.8)
        pss_kb = self.pss_kb()
        said = process.communicate()[0]
        cpu = self.cpu_s() - cpu
        found = re.search(r"^MEASURED (\d+) (\d+) (\d+) (\d+) (\d+)", said, re.MULTILINE)
        if not found:
            raise SystemExit(f"wrk said: {said}")
        requests, duration_us, p50_us, p99_us, errors = map(int, found.groups())
        return f"{requests / duration_us * 1e6:.0f}", p50_us, p99_us, errors, f"{cpu * 1e6 / max(requests, 1):.2f}", pss_kb

    def headers(self):
        return {"Host": "127.0.0.1", "Content-Type": "application/json", "X-API-Key": KEY}

    def open_session(self):
        hello = {"protocolVersion": REVISION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}).encode()
        headers = {**self.headers(), "Accept": "application/json, text/event-stream"}
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}/mcp", body, headers)) as answer:
            return [("Mcp-Session-Id", answer.headers["Mcp-Session-Id"]), ("MCP-Protocol-Version", REVISION),
                    ("Accept", "application/json, text/event-stream")]

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def request(self, path, body):
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers().items())]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()

    def websocket(self, path):
        connection = self.connect()
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", f"X-API-Key: {KEY}", "Connection: Upgrade", "Upgrade: websocket",
                 "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        if b" 101 " not in head:
            raise SystemExit(f"no WebSocket: {head}")
        return connection


ECHO = '{"arguments":{"text":"hello"}}'


def connections(start, seconds):
    with start() as gateway:
        for n in (1, 4, 16, 64, 256, 1000):
            yield n, gateway.wrk(n, seconds, ECHO)


def workers(start, seconds):
    for n in (1, 2, 4, 8, 16, 32, 64):
        with start(workers=n) as gateway:
            yield n, gateway.wrk(64, seconds, ECHO)


def with_tools(start, n, folder):
    schema = {"type": "object", "properties": {"text": {"type": "string", "description": "What is to be said."}}, "required": ["text"]}
    tools = [{"name": f"tool-{index}", "description": "Says it again.", "inputSchema": schema} for index in range(n)]
    (folder / "tools.json").write_text(json.dumps(tools))
    return start(args=("--listing", str(folder / "tools.json")))


def tools(start, seconds):
    with tempfile.TemporaryDirectory() as folder:
        for n in (10, 100, 1000, 5000):
            with with_tools(start, n, Path(folder)) as gateway:
                yield n, gateway.wrk(16, seconds, ECHO, f"/tools/tool-{n // 2}")


def tools_mcp(start, seconds):
    with tempfile.TemporaryDirectory() as folder:
        for n in (10, 100, 1000, 5000):
            with with_tools(start, n, Path(folder)) as gateway:
                call = {"name": f"tool-{n // 2}", "arguments": {"text": "hello"}}
                body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
                yield n, gateway.wrk(16, seconds, body, "/mcp", gateway.open_session())


def uptime(start, seconds):
    """After so many calls of one gateway."""
    with start() as gateway:
        n_calls = 0
        for n in (1, 10_000, 100_000, 1_000_000, 3_000_000):
            while n_calls + 1 < n:
                calls_per_s = float(gateway.wrk(64, seconds, ECHO)[0])
                n_calls += calls_per_s * seconds
            figures = gateway.wrk(64, seconds, ECHO)
            n_calls += float(figures[0]) * seconds
            yield n, figures


def result_bytes(start, seconds):
    with start() as gateway:
        for n in (100, 1000, 10_000, 100_000, 1_000_000, 4_000_000, 16_000_000):
            yield n, gateway.wrk(4, seconds, json.dumps({"arguments": {"bytes": n}}), "/tools/big")


def idle_connections(start, _seconds):
    """What a connection costs that is kept alive and says nothing."""
    n = 1000
    with start() as gateway:
        request = gateway.request("/tools/echo", ECHO)
        with gateway.connect() as first:
            first.sendall(request)
            first.recv(65536)
            before_kb = gateway.pss_kb()
            held = [gateway.connect() for _ in range(n)]
            for connection in held:
                connection.sendall(request)
                connection.recv(65536)
            # Those that were quiet for half a second have no thread any more.
            time.sleep(2)
            yield n, (gateway.pss_kb() - before_kb) / n, "kB PSS each"
            for connection in held:
                connection.close()


def stream_events(start, _seconds):
    """Events per second, from the first to the last, through one stream and through many at once."""
    for n_streams, n_events in ((1, 300_000), (1000, 300)):
        with start(WORKER_CONCURRENCY="1024", STREAM_QUEUE_BYTES="64M") as gateway:
            request = gateway.request("/tools/chunks/stream", json.dumps({"arguments": {"n": n_events, "ms": 0}}))
            epoll, streams, n_seen = select.epoll(), {}, 0
            for _ in range(n_streams):
                connection = gateway.connect()
                streams[connection.fileno()] = [connection, b""]
                epoll.register(connection.fileno(), select.EPOLLIN)
            cpu, started_at = gateway.cpu_s(), time.monotonic()
            for connection, _ in streams.values():
                connection.sendall(request)
            while streams:
                for descriptor, _ in epoll.poll(PATIENCE_S):
                    connection, rest = streams[descriptor]
                    piece = connection.recv(1 << 20)
                    text = rest + piece
                    n_seen += text.count(b"event: chunk\n")
                    # What may be the beginning of one more, and cannot hold a whole one.
                    streams[descriptor][1] = text[-12:]
                    if not piece or b"event: done" in text[-400:]:
                        connection.close()
                        del streams[descriptor]
            took_s = time.monotonic() - started_at
            cpu = gateway.cpu_s() - cpu
            if n_seen != n_streams * n_events:
                print(f"{n_seen} of {n_streams * n_events} events came through {n_streams} streams", file=sys.stderr)
            yield n_streams, n_seen / took_s, "events/s"
            yield n_streams, cpu * 1e6 / max(n_seen, 1), "µs CPU/event"


def sockets(start, seconds):
    """Calls over 64 WebSockets, whose clients answer questions or none, and over 64 HTTP connections by the same client. Each gateway has a
    second before it counts, in which it learns how many calls a worker can have."""
    n = 64
    asked, unasked, http = "websocket", "websocket, input false", "http"
    for way in (asked, unasked, http):
        with start() as gateway:
            text = ECHO if way == asked else ECHO[:-1] + ',"input":false}'
            frame = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()
            message = gateway.request("/tools/echo", ECHO) if way == http else frame
            is_end = b'"request_id"' if way == http else b'"event":"complete"'
            held = {}
            epoll = select.epoll()
            for _ in range(n):
                connection = gateway.connect() if way == http else gateway.websocket("/ws/tools/echo")
                held[connection.fileno()] = connection
                epoll.register(connection.fileno(), select.EPOLLIN)
            for connection in held.values():
                connection.sendall(message)
            for time_s in (WARM_UP_S, seconds):
                n_calls, cpu, started_at = 0, gateway.cpu_s(), time.monotonic()
                while time.monotonic() < started_at + time_s:
                    for descriptor, _ in epoll.poll(PATIENCE_S):
                        if is_end in held[descriptor].recv(65536):
                            n_calls += 1
                            held[descriptor].send(message)
            took_s = time.monotonic() - started_at
            yield n, n_calls / took_s, f"calls/s over {way}"
            yield n, (gateway.cpu_s() - cpu) * 1e6 / n_calls, f"µs CPU/call over {way}"
            for connection in held.values():
                connection.close()


AXES = [connections, workers, tools, tools_mcp, uptime, result_bytes]
OTHERS = [idle_connections, stream_events, sockets]


def main(target, gateway, helper, n_rounds, seconds, *names):
    with tempfile.TemporaryDirectory() as folder, open(Path(target) / "curves.tsv", "w") as table:
        folder, seconds = Path(folder), int(seconds)

        def start(args=(), **settings):
            return Gateway(folder, gateway, helper, args, **settings)

        print("axis\tx\tround\tcalls_per_s\tp50_us\tp99_us\terrors\tcpu_us_per_call\tpss_kb\tvalue\tunit", file=table)
        for n_round in range(1, int(n_rounds) + 1):
            for axis in [*AXES, *OTHERS]:
                name = axis.__name__
                if names and name not in names:
                    continue
                for x, *rest in axis(start, seconds):
                    figures = [*rest[0], "", ""] if axis in AXES else ["", "", "", "", "", "", f"{rest[0]:.2f}", rest[1]]
                    print(name, x, n_round, *figures, sep="\t", file=table, flush=True)
                    print(name, x, *rest, file=sys.stderr)


main(*sys.argv[1:])
