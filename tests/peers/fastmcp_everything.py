"""A FastMCP 4 server with every feature of both eras: what clients of the gateway's `/mcp` are tried on.

A tool that needs something of its client asks while it runs where there is a handshake, and answers with
`InputRequiredResult` where there is none (2026-07-28). Nothing it says depends on time or chance.
"""

import asyncio
from dataclasses import dataclass

import mcp_types as types
from fastmcp import Context, FastMCP
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated, ToolsListChanged

mcp = FastMCP("everything in Python", version="4.2", instructions="Call what you like, in any order. Grüße!")
changes = InMemorySubscriptionBus()
watched: set[str] = set()
was_cancelled = asyncio.Event()


# --- tools --------------------------------------------------------------------------------------------------------


@dataclass
class Sum:
    sum: int
    of: list[int]


@mcp.tool
def add(a: int, b: int) -> Sum:
    """Adds two numbers: structured output."""
    return Sum(a + b, [a, b])


@mcp.tool
def greet(name: str) -> str:
    """Greets someone."""
    return f"Hello, {name}! \u2028 \"quoted\" \\ 🚲"


@mcp.tool
async def steps(n: int, context: Context) -> str:
    """Reports n steps."""
    for step in range(n):
        await context.report_progress(step + 1, n, f"step {step + 1}")
        # Some clients lose what is told right before the answer.
        await asyncio.sleep(0.05)
    return f"{n} steps"


@mcp.tool
async def speak(context: Context) -> str:
    """Says three things to the log."""
    await context.debug("quiet")
    await context.info("normal", logger_name="speaker", extra={"n": 1})
    await context.warning("loud: 日本")
    return "spoken"


@mcp.tool
async def wait(context: Context) -> str:
    """Waits until it is cancelled, after a sign that it runs."""
    await context.report_progress(1, message="waiting")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        was_cancelled.set()
        raise
    return "nobody cancelled"


@mcp.tool
async def cancelled() -> str:
    """Tells that a `wait` was cancelled, as soon as one was."""
    await asyncio.wait_for(was_cancelled.wait(), 10)
    was_cancelled.clear()
    return "a call was cancelled"


# --- tools that ask ------------------------------------------------------------------------------------------------

FORM = {
    "type": "object",
    "properties": {
        "people": {"type": "integer", "title": "People", "minimum": 1},
        "when": {"type": "string", "enum": ["noon", "night"], "default": "night"},
    },
    "required": ["people"],
}


async def answer_to(question: types.InputRequest, context: Context) -> types.InputResponse | types.InputRequiredResult:
    """The client's answer, or what must be returned to get it."""
    if context.request_context.protocol_version < "2026-07-28":
        kinds = {
            "elicitation/create": types.ElicitResult,
            "sampling/createMessage": types.CreateMessageResult,
            "roots/list": types.ListRootsResult,
        }
        return await context.session.send_request(question, kinds[question.method])
    answers = context.input_responses or {}
    if "question" in answers and context.request_state == "asked":
        return answers["question"]
    return types.InputRequiredResult(input_requests={"question": question}, request_state="asked")


@mcp.tool(output_schema=None)
async def book_table(name: str, context: Context):
    """Books a table; asks for how many people."""
    form = types.ElicitRequestFormParams(message=f"A table for how many, {name}?", requested_schema=FORM)
    answer = await answer_to(types.ElicitRequest(params=form), context)
    if isinstance(answer, types.InputRequiredResult):
        return answer
    if answer.action != "accept":
        return f"No table for {name}: {answer.action}."
    return f"A table for {answer.content['people']}, for {name}."


@mcp.tool(output_schema=None)
async def think(prompt: str, context: Context):
    """Has the client's model say something."""
    content = types.TextContent(type="text", text=prompt)
    message = types.SamplingMessage(role="user", content=content)
    params = types.CreateMessageRequestParams(
        messages=[message], max_tokens=50, system_prompt="Be brief.", temperature=0.5
    )
    answer = await answer_to(types.CreateMessageRequest(params=params), context)
    if isinstance(answer, types.InputRequiredResult):
        return answer
    return f"{answer.model} says: {answer.content.text}"


@mcp.tool(output_schema=None)
async def where(context: Context):
    """Names the client's roots."""
    answer = await answer_to(types.ListRootsRequest(), context)
    if isinstance(answer, types.InputRequiredResult):
        return answer
    return ", ".join(f"{root.name}: {root.uri}" for root in answer.roots)


# --- what changes --------------------------------------------------------------------------------------------------


@mcp.tool
async def touch(uri: str, context: Context) -> str:
    """Tells those who watch a resource that it was updated."""
    if uri in watched:
        await context.session.send_resource_updated(uri)
    await changes.publish(ResourceUpdated(uri=uri))
    return f"touched {uri}"


@mcp.tool
async def grow(context: Context) -> str:
    """Adds a tool, and tells so."""
    mcp.tool(lambda: "new", name="grown", description="Was not there before.")
    if context.request_context.protocol_version < "2026-07-28":
        await context.session.send_tool_list_changed()
    await changes.publish(ToolsListChanged())
    return "grown"


async def subscribe(_context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    watched.add(str(params.uri))
    return types.EmptyResult()


async def unsubscribe(_context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    watched.discard(str(params.uri))
    return types.EmptyResult()


# FastMCP itself has no words for these yet.
low_level = mcp._mcp_server
low_level.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
low_level.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, unsubscribe)
low_level.add_request_handler(
    "subscriptions/listen", types.SubscriptionsListenRequestParams, ListenHandler(changes)
)


# --- resources, prompts, completion --------------------------------------------------------------------------------


@mcp.resource("demo://notes/today", mime_type="text/markdown")
def today() -> str:
    """A text."""
    return "# Today\n\nNothing — *yet*.\n"


@mcp.resource("demo://pixels", mime_type="application/octet-stream")
def pixels() -> bytes:
    """Bytes."""
    return bytes(range(256))


@mcp.resource("demo://items/{item}", mime_type="application/json")
def item(item: str) -> dict:
    """One of many."""
    return {"item": item, "is": ["one", "of", "many"]}


@mcp.prompt
def letter(to: str, tone: str = "kind") -> str:
    """Asks for a letter."""
    return f"Write a {tone} letter to {to}."


@mcp.completion
def complete(reference, argument: types.CompletionArgument, context: types.CompletionContext | None) -> list[str]:
    known = {"tone": ["kind", "curt", "keen"], "item": ["apple", "apricot", "pear"]}
    found = [it for it in known.get(argument.name, []) if it.startswith(argument.value)]
    others = context.arguments if context and context.arguments else {}
    return found + [f"{key}={value}" for key, value in others.items()]


if __name__ == "__main__":
    mcp.run(show_banner=False)
