"""The fixture server on the official SDK: every name the suite asks for, one era, one transport.

``python -m tests.conformance.servers.everything --era legacy|modern|both [--http PORT] [--name N]``

Pinned to an era it behaves like a server that knows no other: the tool-runner must find that out
by itself. ``--replies collider`` gives the same names with other texts, for the aggregate endpoint.
"""

import argparse
import asyncio
import functools
import json
import sys
import weakref
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server import Server
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.conformance.servers import behaviour, content
from tests.conformance.servers.content import Json

MODERN = "2026-07-28"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_EVENTS = {"tools": ToolsListChanged, "prompts": PromptsListChanged}
_NOTICES = {
    "tools": "notifications/tools/list_changed",
    "prompts": "notifications/prompts/list_changed",
}
_DECLARED_BY = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}


class SdkCall:
    """A ``Call`` on the SDK's request context."""

    refusal = MCPError

    def __init__(self, fixture: "Fixture", ctx: Any) -> None:
        self._fixture = fixture
        self._ctx = ctx
        params: Json = dict(ctx.params or {})
        self.arguments: Json = dict(params.get("arguments") or {})
        self.modern: bool = ctx.protocol_version == MODERN
        declared = ctx.session.client_capabilities
        self.capabilities: Json = (
            declared.model_dump(by_alias=True, exclude_none=True) if declared is not None else {}
        )
        self._meta: Json = dict(params.get("_meta") or {})
        target = str(params.get("name", params.get("uri", "")))
        self._retry = behaviour.Retry(target, params) if self.modern else None

    async def _notify(self, method: str, params: Json) -> None:
        await self._ctx.session._request_outbound.notify(method, params)

    async def progress(self, done: float, total: float) -> None:
        token = self._meta.get("progressToken")
        if token is not None:
            told = {"progressToken": token, "progress": done, "total": total}
            await self._notify("notifications/progress", told)

    async def log(self, words: str) -> None:
        level = (
            self._meta.get("io.modelcontextprotocol/logLevel")
            if self.modern
            else self._fixture.levels.get(self._fixture.peer(self._ctx), "debug")
        )
        if level in LEVELS and LEVELS.index(level) <= LEVELS.index("info"):
            await self._notify(
                "notifications/message", {"level": "info", "logger": "fixture", "data": words}
            )

    async def ask(self, requests: dict[str, Json], *, stateful: bool = False) -> dict[str, Json]:
        for request in requests.values():
            needed = _DECLARED_BY[request["method"]]
            if needed not in self.capabilities:
                raise behaviour.MissingCapabilityError(needed)
        if self._retry is not None:
            return self._retry.take(requests, stateful=stateful)

        async def push(key: str, request: Json) -> tuple[str, Json]:
            params = {**request["params"], "_meta": {"mesh/inputKey": key}}
            channel = self._ctx.session._request_outbound
            return key, await channel.send_raw_request(request["method"], params, None)

        pairs = await asyncio.gather(*(push(key, one) for key, one in requests.items()))
        return dict(pairs)

    async def changed(self, what: str) -> None:
        await self._fixture.change(what)

    async def close_stream(self) -> None:
        if self._ctx.close_sse_stream is not None:
            await self._ctx.close_sse_stream()


class Fixture:
    """The server's state: what comes and goes, and whom to tell."""

    def __init__(self, name: str, *, collider: bool) -> None:
        self.levels: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._collider = collider
        self._extra = {"tools": False, "prompts": False}
        self._version = 0
        self._peers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._watchers: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
        self._events = InMemorySubscriptionBus()
        hint = CacheHint(ttl_ms=60_000, scope="public")
        methods = (
            "server/discover",
            "tools/list",
            "prompts/list",
            "resources/list",
            "resources/templates/list",
            "resources/read",
        )
        self.server: Server[Any] = Server(
            name,
            version="1.0",
            instructions=f"The fixture {name}.",
            cache_hints=dict.fromkeys(methods, hint),
            get_tool_input_schema=self._schema,
            on_list_tools=self._tools,
            on_call_tool=self._call,
            on_list_resources=self._resources,
            on_list_resource_templates=self._templates,
            on_read_resource=self._read,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_subscriptions_listen=ListenHandler(self._events),
            on_list_prompts=self._prompts,
            on_get_prompt=self._prompt,
            on_completion=self._complete,
        )
        self.server.add_request_handler(
            "logging/setLevel", types.SetLevelRequestParams, self._level
        )

    def pin(self, era: str) -> None:
        """Refuse the handshake of the other era, on every transport."""

        async def refuse(ctx: Any, go_on: Any) -> Any:
            self._peers.add(self.peer(ctx))
            if era == "modern" and ctx.protocol_version != MODERN:
                requested = (ctx.params or {}).get("protocolVersion")
                data = {"supported": [MODERN], "requested": requested}
                raise MCPError(-32022, "this server speaks 2026-07-28 only", data)
            return await go_on(ctx)

        self.server.middleware.append(refuse)

    @staticmethod
    def peer(ctx: Any) -> Any:
        """The connection a request came on."""
        return ctx.session._connection

    async def change(self, what: str) -> None:
        """Change something and tell every peer."""
        if what == "resource":
            self._version += 1
            await self._events.publish(ResourceUpdated(content.UPDATED_URI))
            for peer, uris in list(self._watchers.items()):
                if content.UPDATED_URI in uris:
                    await peer.send_resource_updated(content.UPDATED_URI)
            return
        self._extra[what] = not self._extra[what]
        await self._events.publish(_EVENTS[what]())
        for peer in list(self._peers):
            if peer.protocol_version != MODERN:
                await peer.notify(_NOTICES[what], None)

    # Handlers -------------------------------------------------------------------------------

    def _schema(self, name: str) -> Json | None:
        for tool in self._all_tools():
            if tool["name"] == name:
                return tool["inputSchema"]
        return None

    def _all_tools(self) -> list[Json]:
        return [*content.TOOLS, *([content.DYNAMIC_TOOL] if self._extra["tools"] else [])]

    async def _tools(self, ctx: Any, params: Any) -> Any:
        return _complete(ctx, {"tools": self._all_tools()})

    async def _call(self, ctx: Any, params: Any) -> Any:
        name = params.name
        try:
            if self._collider:
                known = any(tool["name"] == name for tool in self._all_tools())
                result = content.text(f"collider: {name}") if known else None
            else:
                result = await behaviour.run(name, SdkCall(self, ctx))
        except behaviour.InputRequiredError as wanted:
            return wanted.result
        except behaviour.MissingCapabilityError as missing:
            if ctx.protocol_version != MODERN:
                return content.text(str(missing), isError=True)
            raise MCPError(
                -32021, str(missing), {"requiredCapabilities": {missing.name: {}}}
            ) from None
        except behaviour.WrongStateError as wrong:
            raise MCPError(-32602, str(wrong)) from None
        if result is None:
            raise MCPError(-32602, f"unknown tool: {name}")
        return _complete(ctx, result)

    async def _resources(self, ctx: Any, params: Any) -> Any:
        return _complete(ctx, {"resources": content.RESOURCES})

    async def _templates(self, ctx: Any, params: Any) -> Any:
        return _complete(ctx, {"resourceTemplates": content.TEMPLATES})

    async def _read(self, ctx: Any, params: Any) -> Any:
        uri = str(params.uri)
        found = content.resource(uri, self._version)
        if found is None:
            code = -32602 if ctx.protocol_version == MODERN else -32002
            raise MCPError(code, "Resource not found", {"uri": uri})
        if self._collider and "text" in found:
            found = {**found, "text": f"collider: {uri}"}
        return _complete(ctx, {"contents": [found]})

    async def _subscribe(self, ctx: Any, params: Any) -> Any:
        self._watchers.setdefault(self.peer(ctx), set()).add(str(params.uri))
        return {}

    async def _unsubscribe(self, ctx: Any, params: Any) -> Any:
        self._watchers.get(self.peer(ctx), set()).discard(str(params.uri))
        return {}

    async def _prompts(self, ctx: Any, params: Any) -> Any:
        extra = [content.DYNAMIC_PROMPT] if self._extra["prompts"] else []
        return _complete(ctx, {"prompts": [*content.PROMPTS, *extra]})

    async def _prompt(self, ctx: Any, params: Any) -> Any:
        try:
            call = SdkCall(self, ctx)
            messages = await behaviour.ask_prompt(params.name, call)
        except behaviour.InputRequiredError as wanted:
            return wanted.result
        except (behaviour.WrongStateError, behaviour.MissingCapabilityError) as wrong:
            raise MCPError(-32602, str(wrong)) from None
        if messages is None:
            raise MCPError(-32602, f"unknown prompt: {params.name}")
        return _complete(ctx, {"messages": messages})

    async def _complete(self, ctx: Any, params: Any) -> Any:
        begun = params.argument.value
        values = [
            one
            for one in content.COMPLETIONS.get(params.argument.name, [])
            if one.startswith(begun)
        ]
        found = {"values": values, "total": len(values), "hasMore": False}
        return _complete(ctx, {"completion": found})

    async def _level(self, ctx: Any, params: Any) -> Any:
        self.levels[self.peer(ctx)] = params.level
        return {}


def _complete(ctx: Any, result: Json) -> Json:
    return {"resultType": "complete", **result} if ctx.protocol_version == MODERN else result


# Transports -------------------------------------------------------------------------------------


class Events(EventStore):
    """Makes streams resumable: in memory, for as long as the fixture lives."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self._kept.append((stream_id, message))
        return str(len(self._kept))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> Any:
        start = int(last_event_id)
        if not 0 < start <= len(self._kept):
            return None
        stream = self._kept[start - 1][0]
        for number, (owner, message) in enumerate(self._kept[start:], start + 1):
            if owner == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class LegacyOnly:
    """Answers modern HTTP requests as a server of 2025 does: without knowing them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if headers.get(b"mcp-protocol-version") != MODERN.encode():
            await self._app(scope, receive, send)
            return
        error = {"code": -32600, "message": "Bad Request: Missing session ID"}
        body = json.dumps({"jsonrpc": "2.0", "id": "server-error", "error": error}).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 400,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": body})


class ModernOnly:
    """Answers legacy HTTP requests as a server without a handshake does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or headers.get(b"mcp-protocol-version") not in {
            None,
            *(old.encode() for old in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")),
        }:
            await self._app(scope, receive, send)
            return
        data = {"supported": [MODERN], "requested": "legacy"}
        error = {"code": -32022, "message": "this server speaks 2026-07-28 only", "data": data}
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 400,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": body})


async def over_stdio(mcp: Server[Any], era: str) -> None:
    """Serve on the standard streams until they end."""
    changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    options = mcp.create_initialization_options(changes)
    async with stdio_server() as (read, write):
        if era == "legacy":
            await serve_loop(mcp, read, write, lifespan_state={}, init_options=options)
        else:
            await mcp.run(read, write, options)


def over_http(mcp: Server[Any], era: str, port: int) -> None:
    """Serve on a loopback port; prints ``port N`` once it listens."""
    changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    announce = functools.partial(mcp.create_initialization_options, changes)
    mcp.create_initialization_options = announce  # the session manager asks without arguments
    app: ASGIApp = mcp.streamable_http_app(event_store=Events(), retry_interval=100)
    if era != "both":
        app = (LegacyOnly if era == "legacy" else ModernOnly)(app)
    # h11: trailing blanks of header values are gone, as RFC 9110 wants it.
    config = uvicorn.Config(app, host="127.0.0.1", port=port, http="h11", log_level="warning")
    server = uvicorn.Server(config)

    async def serve() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
        if server.started:
            bound = server.servers[0].sockets[0].getsockname()[1]
            print(f"port {bound}", flush=True)
        await serving

    asyncio.run(serve())


def main() -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--era", choices=("legacy", "modern", "both"), default="both")
    parser.add_argument("--http", type=int, default=-1, metavar="PORT")
    parser.add_argument("--name", default="fixture")
    parser.add_argument("--collider", action="store_true")
    options = parser.parse_args()
    fixture = Fixture(options.name, collider=options.collider)
    fixture.pin(options.era)
    if options.http >= 0:
        over_http(fixture.server, options.era, options.http)
    else:
        asyncio.run(over_stdio(fixture.server, options.era))
    return 0


if __name__ == "__main__":
    sys.exit(main())
