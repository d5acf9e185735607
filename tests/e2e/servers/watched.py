"""An MCP server of the official SDK whose resources and lists change when a tool says so.

``old`` as first argument: it knows nothing of the modern era, so it is spoken to in the legacy
one, with one ``resources/subscribe`` per URI; otherwise in the modern one, with a listen. ``http``
as second: streamable HTTP on a free port of loopback, which it prints, instead of stdio.
"""

import asyncio
import json
import logging
import os
import sys
import threading
from typing import Any

from mcp import types
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourceUpdated,
    ToolsListChanged,
)

logging.disable(logging.CRITICAL)

OLD = sys.argv[1:2] == ["old"]
bus = InMemorySubscriptionBus()
listens = ListenHandler(bus)
subscribed: dict[str, Any] = {}
names = ["touch", "grow", "subscribed", "say", "end_listens", "die"]
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}


async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
    tools = [types.Tool(name=name, description=name, input_schema=TEXT) for name in names]
    return types.ListToolsResult(tools=tools)


async def list_resources(_: Any, __: Any) -> types.ListResourcesResult:
    resources = [types.Resource(uri=f"watched:{n}", name=f"{n}") for n in range(3)]
    return types.ListResourcesResult(resources=resources)


async def read_resource(_: Any, params: Any) -> types.ReadResourceResult:
    contents = types.TextResourceContents(uri=params.uri, text="x")
    return types.ReadResourceResult(contents=[contents])


async def touch(context: Any, text: str) -> str:
    if not OLD:
        await bus.publish(ResourceUpdated(uri=text))
    elif text in subscribed:
        await subscribed[text].send_resource_updated(text)
    return "touched"


async def grow(context: Any, text: str) -> str:
    names.append(text)
    if OLD:
        await context.session.send_tool_list_changed()
    else:
        await bus.publish(ToolsListChanged())
    return "grown"


async def say(context: Any, text: str) -> str:
    for level in ("debug", "warning"):
        await context.session.send_log_message(level=level, data=text, logger="own")
    return "said"


async def end_listens(context: Any, text: str) -> str:
    listens.close()
    return "ended"


async def die(context: Any, text: str) -> str:
    os._exit(3)


async def which(context: Any, text: str) -> str:
    return " ".join(sorted(subscribed))


TOOLS = {
    "touch": touch,
    "grow": grow,
    "say": say,
    "end_listens": end_listens,
    "subscribed": which,
    "die": die,
}


async def call_tool(context: Any, params: Any) -> types.CallToolResult:
    text = (params.arguments or {}).get("text", "")
    said = await TOOLS[params.name](context, text)
    return types.CallToolResult(content=[types.TextContent(type="text", text=said)])


async def subscribe(context: Any, params: Any) -> types.EmptyResult:
    subscribed[str(params.uri)] = context.session
    return types.EmptyResult()


async def unsubscribe(_: Any, params: Any) -> types.EmptyResult:
    subscribed.pop(str(params.uri), None)
    return types.EmptyResult()


async def set_level(_: Any, __: Any) -> types.EmptyResult:
    return types.EmptyResult()


def refuse_discover() -> None:
    """Answer the one question that only modern servers know; hand everything else on."""
    real, wire = os.dup(0), os.dup(1)
    reading, writing = os.pipe()
    os.dup2(reading, 0)

    def hand_on() -> None:
        with open(real, "rb", closefd=False) as lines:
            for line in lines:
                message = json.loads(line)
                if message.get("method") == "server/discover":
                    error = {"code": -32601, "message": "method not found"}
                    answer = {"jsonrpc": "2.0", "id": message["id"], "error": error}
                    os.write(wire, json.dumps(answer).encode() + b"\n")
                else:
                    os.write(writing, line)
        os.close(writing)

    threading.Thread(target=hand_on, daemon=True).start()


async def serve_http(server: Server[Any]) -> None:
    """Listen until the process is told to stop."""
    import uvicorn

    app = server.streamable_http_app()

    async def era(scope: Any, receive: Any, send: Any) -> None:
        heads = dict(scope.get("headers", ()))
        if OLD and heads.get(b"mcp-protocol-version") == b"2026-07-28":
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"what is that?"})
            return
        await app(scope, receive, send)

    config = uvicorn.Config(era, host="127.0.0.1", port=0, log_level="critical")
    running = uvicorn.Server(config)
    serving = asyncio.ensure_future(running.serve())
    while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    print(running.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


async def main() -> None:
    if OLD:
        if sys.argv[2:3] != ["http"]:
            refuse_discover()
        eras: dict[str, Any] = {
            "on_subscribe_resource": subscribe,
            "on_unsubscribe_resource": unsubscribe,
            "on_set_logging_level": set_level,
        }
    else:
        eras = {"on_subscriptions_listen": listens, "on_set_logging_level": set_level}
    server: Server[Any] = Server(
        "watched",
        version="1",
        cache_hints={"tools/list": CacheHint(60_000), "resources/read": CacheHint(5_000, "public")},
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
        **eras,
    )
    if sys.argv[2:3] == ["http"]:
        await serve_http(server)
        return
    async with stdio_server() as (reading, writing):
        options = server.create_initialization_options(NotificationOptions(tools_changed=True))
        await server.run(reading, writing, options)


if __name__ == "__main__":
    asyncio.run(main())
