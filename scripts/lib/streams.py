"""The clients of scripts/streams.sh: they hold many quiet streams open, or measure how long an event is on its way.

    streams.py hold URL KEY WEBSOCKETS STREAMS   opens them, says `open`, and holds them until its input ends
    streams.py latency URL KEY SURFACE N         one stream of N stamped steps over SURFACE (`sse` or `ws`)

Nothing but the standard library. The key travels in a header, as programs send it.
"""

import base64
import json
import os
import selectors
import socket
import statistics
import struct
import sys
import time
import urllib.parse

PATIENCE_S = 60


def connect(url):
    parts = urllib.parse.urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), PATIENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def head_of(connection):
    """Reads an answer's head; returns it and what came behind it."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            raise SystemExit(f"closed during the head of an answer, after {received!r}")
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return head.decode(), rest


def open_stream(url, key, tool, arguments):
    """Starts a call as an event stream; returns the connection and what came behind the head."""
    body = json.dumps({"arguments": arguments})
    connection = connect(url)
    head = f"POST /tools/{tool}/stream HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    answer, rest = head_of(connection)
    if " 200 " not in answer.splitlines()[0]:
        raise SystemExit(f"not a stream: {answer}\n{rest.decode(errors='replace')}")
    return connection, rest


def open_websocket(url, key):
    connection = connect(url)
    nonce = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        (
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
    )
    answer, rest = head_of(connection)
    if " 101 " not in answer.splitlines()[0]:
        raise SystemExit(f"not a WebSocket: {answer}\n{rest.decode(errors='replace')}")
    return connection, rest


def frame(opcode, payload):
    """A masked frame of less than 64 KiB. A mask of zeros is a mask."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else bytes([0x80 | 126]) + struct.pack(">H", length)
    return bytes([0x80 | opcode]) + size + b"\0\0\0\0" + payload


def frames(received):
    """The whole frames at the start of `received` as (opcode, payload), and the rest."""
    found = []
    while 2 <= len(received):
        length, start = received[1] & 0x7F, 2
        if length == 126:
            start = 4
            length = int.from_bytes(received[2:4], "big")
        elif length == 127:
            start = 10
            length = int.from_bytes(received[2:10], "big")
        if len(received) < start + length:
            break
        found.append((received[0] & 0x0F, received[start : start + length]))
        received = received[start + length :]
    return found, received


def hold(url, key, n_websockets, n_streams):
    selector = selectors.DefaultSelector()
    for number in range(n_websockets + n_streams):
        is_websocket = number < n_websockets
        connection, _ = open_websocket(url, key) if is_websocket else open_stream(url, key, "quiet", {})
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, is_websocket)
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    print("open", flush=True)
    n_closed = 0
    n_signs = 0
    while True:
        for ready, _ in selector.select():
            if ready.fileobj is sys.stdin:
                print(f"{n_closed} were closed meanwhile, {n_signs} signs of life came")
                return
            connection = ready.fileobj
            try:
                piece = connection.recv(65536)
            except ConnectionError:
                piece = b""
            if not piece:
                n_closed += 1
                selector.unregister(connection)
                connection.close()
                continue
            if ready.data:
                pings = [payload for opcode, payload in frames(piece)[0] if opcode == 9]
                for payload in pings:
                    connection.sendall(frame(10, payload))
                n_signs += len(pings)
            else:
                n_signs += piece.count(b": keep-alive")


def latency(url, key, surface, n):
    """The helper stamps each step with the monotonic clock, which is the same in every process."""
    arguments = {"n": n, "ms": 2, "stamp": True}
    if surface == "sse":
        connection, received = open_stream(url, key, "stream", arguments)
    else:
        connection, received = open_websocket(url, key)
        connection.sendall(frame(1, json.dumps({"tool": "stream", "arguments": arguments, "id": 1}).encode()))
    delays_us = []
    while len(delays_us) < n:
        piece = connection.recv(65536)
        now_ns = time.monotonic_ns()
        if not piece:
            raise SystemExit(f"closed after {len(delays_us)} of {n} steps")
        received += piece
        if surface == "sse":
            *whole, received = received.split(b"\n\n")
            data = [line[6:] for event in whole for line in event.splitlines() if line.startswith(b"data: ")]
        else:
            found, received = frames(received)
            data = [payload for opcode, payload in found if opcode == 1]
        steps = [step for step in map(json.loads, data) if str(step.get("message", "")).isdigit()]
        delays_us += [(now_ns - int(step["message"])) / 1000 for step in steps]
    percentile = statistics.quantiles(delays_us, n=100)
    print(f"{statistics.median(delays_us):.0f} {percentile[98]:.0f} {max(delays_us):.0f} {delays_us[0]:.0f}")


command, *arguments = sys.argv[1:]
if command == "hold":
    hold(arguments[0], arguments[1], int(arguments[2]), int(arguments[3]))
elif command == "latency":
    latency(arguments[0], arguments[1], arguments[2], int(arguments[3]))
else:
    raise SystemExit(f"there is no command {command}; see the first lines of this file")
