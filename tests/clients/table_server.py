"""A server whose tool asks its caller something while it runs: the one of the exchange in docs/streaming.md."""

from dataclasses import dataclass

from fastmcp import Context, FastMCP

mcp = FastMCP("tables")


@dataclass
class Party:
    people: int


@mcp.tool(output_schema=None)
async def book_table(name: str, context: Context) -> str:
    """Book a table in someone's name; asks for how many people."""
    answer = await context.elicit(f"A table for how many, {name}?", response_type=Party)
    if answer.action != "accept":
        return f"No table for {name}: {answer.action}."
    return f"A table for {answer.data.people}, for {name}."


if __name__ == "__main__":
    mcp.run(show_banner=False)
