"""An official server over HTTP: ``far.py TRANSPORT PORT`` prints its URL and serves."""

import asyncio
import socket
import sys

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pydantic import BaseModel

server = MCPServer("far")


@server.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
async def steps(count: int, ctx: Context) -> str:
    """Report progress, then end."""
    for at in range(count):
        await ctx.report_progress(at + 1, count)
        await asyncio.sleep(0)
    return "done"


class Sure(BaseModel):
    """What is asked."""

    sure: bool


@server.tool()
async def order(ctx: Context) -> str:
    """Ask in mid-call, as of old."""
    said = await ctx.elicit("Sure?", Sure)
    return f"{said.action} {said.data.sure if said.action == 'accept' else ''}"


@server.resource("note://far")
def note() -> str:
    """A note."""
    return "from afar"


def main(transport: str, port: int) -> None:
    sse = transport == "sse"
    app = server.sse_app(host="127.0.0.1") if sse else server.streamable_http_app(host="127.0.0.1")
    listener = socket.create_server(("127.0.0.1", port))
    place = listener.getsockname()[1]
    print(f"http://127.0.0.1:{place}/{'sse' if sse else 'mcp'}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
