"""A server as a Python author writes one today, with FastMCP 4: text, structured output, errors, Unicode, progress."""

from dataclasses import dataclass

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError

mcp = FastMCP("peer")


@dataclass
class Place:
    name: str
    population: int
    tags: list[str]


@mcp.tool
def greet(name: str) -> str:
    """Greet someone."""
    return f"Hello, {name}!"


@mcp.tool
def place(name: str) -> Place:
    """Structured output: an object."""
    return Place(name, 12_345_678_901_234_567_890, ["river", "grün", "🚲"])


@mcp.tool
def numbers(n: int) -> list[int]:
    """Structured output: a list, which FastMCP wraps."""
    return list(range(n))


@mcp.tool
def unicode(text: str) -> str:
    """Text beyond ASCII, with what JSON must escape."""
    return f'{text} | "quoted" \\ back\nline\t🙂 \u2028 \x7f'


@mcp.tool
def nothing() -> None:
    """No answer at all."""


@mcp.tool
def fail(reason: str) -> str:
    """Always fails."""
    raise ToolError(f"it failed: {reason}")


@mcp.tool
async def steps(n: int, context: Context) -> str:
    """Reports n steps."""
    for step in range(n):
        await context.report_progress(step + 1, n, f"step {step + 1}")
    return f"{n} steps"


if __name__ == "__main__":
    mcp.run(show_banner=False)
