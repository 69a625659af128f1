"""What Open WebUI makes of a gateway: the tools that it offers to a model, and a call of each that is named.

Usage: open_webui.py TOOLS_PY URL KEY [NAME ARGUMENTS]...

TOOLS_PY is `open_webui/utils/tools.py` of its package. Open WebUI itself needs a database and a hundred packages, so only the
functions that meet a tool server are taken from there, as they stand, with what they use from elsewhere.
"""

import ast
import asyncio
import base64
import copy
import json
import logging
import sys
from urllib.parse import quote, urlencode

import aiohttp

WANTED = {"resolve_schema", "convert_openapi_to_tool_payload", "execute_tool_server", "get_tool_server_data",
          "get_tool_server_url", "clean_properties", "clean_openai_tool_schema"}

tools_py, url, key, *calls = sys.argv[1:]


class Codec:
    JSONDecodeError = json.JSONDecodeError
    loads = staticmethod(json.loads)


known = {
    "aiohttp": aiohttp, "asyncio": asyncio, "base64": base64, "copy": copy, "quote": quote, "urlencode": urlencode,
    "log": logging.getLogger(), "JSONCodec": Codec, "ENABLE_TOOL_SERVERS": True,
    "AIOHTTP_CLIENT_TIMEOUT_TOOL_SERVER": 60, "AIOHTTP_CLIENT_TIMEOUT_TOOL_SERVER_DATA": 10,
    "AIOHTTP_CLIENT_SESSION_TOOL_SERVER_SSL": True, "AIOHTTP_CLIENT_ALLOW_REDIRECTS": True,
}
source = open(tools_py).read()
for node in ast.parse(source).body:
    is_constant = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "OPENAPI_HTTP_METHODS"
    if is_constant or getattr(node, "name", "") in WANTED:
        part = ast.Module([ast.ImportFrom("__future__", [ast.alias("annotations")], 0), node], [])
        exec(compile(ast.fix_missing_locations(part), tools_py, "exec"), known)


async def main():
    headers = {"Authorization": f"Bearer {key}"}
    openapi = await known["get_tool_server_data"](known["get_tool_server_url"](url, "openapi.json"), headers)
    specs = known["convert_openapi_to_tool_payload"](openapi)
    offered = [known["clean_openai_tool_schema"](copy.deepcopy(spec)) for spec in specs]
    results = []
    for name, arguments in zip(calls[::2], calls[1::2]):
        result, _ = await known["execute_tool_server"](
            url=url, headers={"Content-Type": "application/json", **headers}, cookies={}, name=name,
            params=json.loads(arguments), server_data={"openapi": openapi},
        )
        results.append(result)
    print(json.dumps({"offered": offered, "results": results}))


asyncio.run(main())
