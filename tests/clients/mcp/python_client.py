"""The two Python clients: `python_client.py LIBRARY ERA stdio COMMAND...` or `... LIBRARY ERA http URL`.

LIBRARY is `mcp` (the Python SDK 2) or `fastmcp` (FastMCP 4), ERA is `auto` or `legacy`; a plan as in `seen.mjs` comes on
standard input. Prints one JSON document of everything the client saw.
"""

import asyncio
import json
import os
import sys
import warnings
from contextlib import AsyncExitStack

import fastmcp
import httpx2
import mcp
import mcp_types as types
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

PATIENCE_SECONDS = 10
LOG_LEVEL_KEY = "io.modelcontextprotocol/logLevel"

# What 2026-07-28 deprecates is tried all the same.
warnings.simplefilter("ignore")
library, era, kind, *target = sys.argv[1:]
plan = json.load(sys.stdin)
headers = {"Authorization": f"Bearer {os.environ['CLIENT_KEY']}"} if "CLIENT_KEY" in os.environ else {}


def plain(value):
    """A message, or part of one, as it goes over the wire."""
    return value.model_dump(mode="json", by_alias=True, exclude_none=True) if hasattr(value, "model_dump") else value


def is_modern(session):
    return session.protocol_version >= "2026-07-28"


class Seen:
    """What the server asked and told, and what it is answered at the moment."""

    def __init__(self):
        self.asked, self.told, self.answers = {}, {}, plan["answers"]

    def answer(self, method, kind, params=None):
        self.asked.setdefault(method, []).append({} if params is None else plain(params))
        return kind.model_validate(self.answers[method])

    async def hear(self, notification):
        if isinstance(notification, Exception):
            raise notification
        message = plain(notification)
        if message["method"] != "notifications/progress":
            self.told.setdefault(message["method"], []).append(message.get("params", {}))

    async def heard(self, method, count):
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(self.told.get(method, [])) < count:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise RuntimeError(f"heard {method} {len(self.told.get(method, []))} times only") from None


seen = Seen()


async def elicit(_context, params):
    return seen.answer("elicitation/create", types.ElicitResult, params)


async def elicit_fastmcp(_message, _response_type, params, _context):
    return seen.answer("elicitation/create", types.ElicitResult, params)


async def sample(_context, params):
    return seen.answer("sampling/createMessage", types.CreateMessageResult, params)


async def sample_fastmcp(_messages, params, _context):
    return seen.answer("sampling/createMessage", types.CreateMessageResult, params)


async def roots(_context):
    return seen.answer("roots/list", types.ListRootsResult)


async def roots_fastmcp(_context):
    return seen.answer("roots/list", types.ListRootsResult).roots


class PythonSdk:
    """The client of `mcp`."""

    async def connect(self, stack):
        if kind == "stdio":
            server = StdioServerParameters(command=target[0], args=target[1:], env=dict(os.environ))
        else:
            http_client = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=30))
            server = streamable_http_client(target[0], http_client=http_client)
        self.client = await stack.enter_async_context(
            Client(
                server,
                mode=era,
                elicitation_callback=elicit,
                sampling_callback=sample,
                list_roots_callback=roots,
                message_handler=seen.hear,
                log_level=plan.get("logLevel"),
                client_info=types.Implementation(name="python-sdk", version="1.0.0"),
            )
        )
        return self.client.session

    async def list(self, what):
        return await getattr(self.client, f"list_{what}")()

    async def call(self, name, arguments, on_progress):
        return await self.client.call_tool(name, arguments, progress_callback=on_progress)

    async def read(self, uri):
        return await self.client.read_resource(uri)

    async def prompt(self, name, arguments):
        return await self.client.get_prompt(name, arguments)

    async def complete(self, ref, argument, context):
        return await self.client.complete(ref, argument, context)


class FastMcp:
    """The client of `fastmcp`."""

    async def connect(self, stack):
        if kind == "stdio":
            server = StdioTransport(target[0], target[1:], env=dict(os.environ), keep_alive=False)
        else:
            server = StreamableHttpTransport(target[0], headers=headers)
        self.client = await stack.enter_async_context(
            fastmcp.Client(
                server,
                mode=era,
                elicitation_handler=elicit_fastmcp,
                sampling_handler=sample_fastmcp,
                roots=roots_fastmcp,
                message_handler=seen.hear,
                client_info=types.Implementation(name="fastmcp", version="1.0.0"),
            )
        )
        return self.client.session

    async def list(self, what):
        return await getattr(self.client, f"list_{what}_mcp")()

    async def call(self, name, arguments, on_progress):
        asks = is_modern(self.client.session) and "logLevel" in plan
        meta = {LOG_LEVEL_KEY: plan["logLevel"]} if asks else None
        return await self.client.call_tool_mcp(name, arguments, progress_handler=on_progress, meta=meta)

    async def read(self, uri):
        return await self.client.read_resource_mcp(uri)

    async def prompt(self, name, arguments):
        return await self.client.get_prompt_mcp(name, arguments)

    async def complete(self, ref, argument, context):
        return await self.client.complete_mcp(ref, argument, context)


async def call(client, step, params, progress):
    """A tool call; one that is to be cancelled is abandoned at its first progress."""
    has_begun = asyncio.Event()

    async def on_progress(n, total, message):
        fields = {"progress": n, "total": total, "message": message}
        progress.append({key: value for key, value in fields.items() if value is not None})
        has_begun.set()

    calling = asyncio.create_task(client.call(params["name"], params.get("arguments", {}), on_progress))
    if step.get("cancel"):
        await has_begun.wait()
        calling.cancel()
    return await calling


async def request(client, session, step, progress):
    params = step.get("params", {})
    match step["method"]:
        case "ping":
            return {} if is_modern(session) else await session.send_ping()
        case "tools/call":
            return await call(client, step, params, progress)
        case "resources/read":
            return await client.read(params["uri"])
        case "prompts/get":
            return await client.prompt(params["name"], params.get("arguments"))
        case "completion/complete":
            kinds = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
            ref = kinds[params["ref"]["type"]].model_validate(params["ref"])
            return await client.complete(ref, params["argument"], params.get("context", {}).get("arguments"))
        case method:
            lists = {"resources/templates/list": "resource_templates"}
            return await client.list(lists.get(method, method.removesuffix("/list")))


async def watch(session, uri, watching):
    """Hears of updates of a resource, in the words of the era."""
    if not is_modern(session):
        await session.subscribe_resource(uri)
        return
    listening = mcp.client.subscriptions.listen(
        session,
        tools_list_changed=True,
        prompts_list_changed=True,
        resources_list_changed=True,
        resource_subscriptions=[uri],
    )
    watching[uri] = listening
    await listening.__aenter__()


async def unwatch(session, uri, watching):
    if not is_modern(session):
        await session.unsubscribe_resource(uri)
    else:
        await watching.pop(uri).__aexit__(None, None, None)


async def take(client, session):
    steps, watching = [], {}
    for step in plan["steps"]:
        seen.answers = plan["answers"] | step.get("answers", {})
        progress, entry = [], {"step": step}
        try:
            if "hear" in step:
                await seen.heard(step["hear"], step["count"])
            elif "watch" in step:
                await watch(session, step["watch"], watching)
            elif "unwatch" in step:
                await unwatch(session, step["unwatch"], watching)
            else:
                entry["result"] = plain(await request(client, session, step, progress))
        except mcp.MCPError as error:
            entry["error"] = {"code": error.error.code, "message": error.error.message, "data": error.error.data}
        except asyncio.CancelledError:
            entry["error"] = {"name": "cancelled"}
        except Exception as error:
            entry["error"] = {"name": type(error).__name__, "message": str(error)}
        steps.append(entry | {"progress": progress})
    return steps


async def main():
    client = {"mcp": PythonSdk, "fastmcp": FastMcp}[library]()
    async with AsyncExitStack() as stack:
        session = await client.connect(stack)
        if "logLevel" in plan and not is_modern(session):
            await session.set_logging_level(plan["logLevel"])
        steps = await take(client, session)
        connected = {
            "protocolVersion": session.protocol_version,
            "serverInfo": plain(session.server_info),
            "capabilities": plain(session.server_capabilities),
            "instructions": session.instructions,
        }
    print(json.dumps({"connected": connected, "steps": steps, "asked": seen.asked, "told": seen.told}))


asyncio.run(main())
