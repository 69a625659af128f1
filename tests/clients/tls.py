"""Python's own TLS and HTTP: calls on one kept connection, big bodies and an event stream. Prints what it saw as JSON.

Arguments: host, port, file with the trusted certificate, key, version of TLS (1.2 or 1.3).
"""

import http.client
import json
import ssl
import sys

host, port, trusted, key, version = sys.argv[1:]
context = ssl.create_default_context(cafile=trusted)
context.set_alpn_protocols(["http/1.1"])
context.minimum_version = context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=20)
headers = {"X-API-Key": key, "Content-Type": "application/json"}
seen = {"data": []}


def call(path, arguments):
    connection.request("POST", path, json.dumps({"arguments": arguments}), headers)
    return connection.getresponse()


connection.connect()
socket = connection.sock
seen["version"], seen["alpn"] = socket.version(), socket.selected_alpn_protocol()
for number in range(2):
    seen["data"].append(json.load(call("/tools/echo", {"n": number}))["data"])
text = "x" * (4 * 1024 * 1024 - 1024)
seen["big"] = json.load(call("/tools/echo", {"text": text}))["data"] == {"text": text}
stream = call("/tools/progress/stream", {"n": 2}).read().decode()
seen["events"] = [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]
seen["kept"] = connection.sock is socket
# Both sides say goodbye: without the gateway's, this fails.
socket.settimeout(20)
socket.unwrap()
print(json.dumps(seen))
