"""The client's half of an exchange over WebSocket: `exchange.py URL KEY`, its messages on standard input, one a line.

Sends the first, each further one as the answer to an `input_required`, and prints every message that comes. The
`input_id` of an answer is the one that came, because it differs from run to run.
"""

import json
import sys

from websockets.sync.client import connect

url, key = sys.argv[1:]
messages = iter(sys.stdin.read().splitlines())
with connect(url, additional_headers={"X-API-Key": key}) as socket:
    socket.send(next(messages))
    for text in socket:
        print(text)
        message = json.loads(text)
        if message["event"] == "input_required":
            socket.send(json.dumps(json.loads(next(messages)) | {"input_id": message["input_id"]}))
        elif message["event"] in ("complete", "error", "cancelled"):
            break
