"""A FastMCP server whose tools run as background tasks, in memory, over streamable HTTP.

Argument: its port. ``choose`` asks its user while it runs as a task.
"""

import asyncio
import sys

from fastmcp import Context, FastMCP
from fastmcp_tasks import TasksExtension
from mcp.types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult

FORM = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}

mcp = FastMCP("fast-tasks")
mcp.add_extension(TasksExtension(url="memory://"))


@mcp.tool(task=True)
async def crunch(seconds: float) -> str:
    """Works for some time."""
    await asyncio.sleep(seconds)
    return f"crunched for {seconds}"


@mcp.tool(task=True)
async def fail() -> str:
    """Fails after a moment."""
    await asyncio.sleep(0.1)
    raise ValueError("out of luck")


@mcp.tool(task=True)
async def choose(ctx: Context) -> str | InputRequiredResult:
    """Asks which colour."""
    answers = ctx.input_responses or {}
    if "colour" not in answers:
        question = ElicitRequestFormParams(message="Which colour?", requested_schema=FORM)
        return InputRequiredResult(input_requests={"colour": ElicitRequest(params=question)})
    answer = answers["colour"]
    return f"{answer.action}: {(answer.content or {}).get('colour')}"


@mcp.tool
def add(a: int, b: int) -> int:
    """No task, an ordinary call."""
    return a + b


if __name__ == "__main__":
    mcp.run("http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
