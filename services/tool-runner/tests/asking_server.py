"""A server on the official SDK whose tools ask their client in the old way, over stdio.

The SDK serves both eras; here only the old one, as servers on earlier versions of it do.
"""

import asyncio

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.types import SamplingMessage, TextContent
from pydantic import BaseModel

mcp = MCPServer("asking")


class Choice(BaseModel):
    colour: str


@mcp.tool()
async def choose(ctx: Context) -> str:
    await ctx.report_progress(1, 2)
    answer = await ctx.elicit("Which colour?", Choice)
    await ctx.report_progress(2, 2)
    return f"{answer.action}: {answer.data.colour if answer.action == 'accept' else None}"


@mcp.tool()
async def sample(ctx: Context) -> str:
    messages = [SamplingMessage(role="user", content=TextContent(type="text", text="hi"))]
    answer = await ctx.session.create_message(messages, max_tokens=10)
    assert isinstance(answer.content, TextContent)
    return answer.content.text


@mcp.tool()
async def roots(ctx: Context) -> str:
    return ",".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)


@mcp.prompt()
async def greet(ctx: Context) -> str:
    answer = await ctx.elicit("Which colour?", Choice)
    return f"Hello {answer.data.colour if answer.action == 'accept' else 'you'}"


async def main() -> None:
    server = mcp._lowlevel_server
    async with stdio_server() as (read, write):
        await serve_loop(server, read, write, lifespan_state={})


if __name__ == "__main__":
    asyncio.run(main())
