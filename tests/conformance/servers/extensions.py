"""The fixture of extensions without a task: skills with folders (SEP-2640), and one app.

Written on the SDK's low-level server, which knows neither: what arrives at a client was passed on.
"""

import argparse
import asyncio
import hashlib
import sys
from typing import Any

import pydantic
from mcp.server import Server
from mcp.server.caching import CacheHint
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from tests.conformance.servers import everything
from tests.conformance.servers.content import Json, text

SKILLS = "io.modelcontextprotocol/skills"
UI = "io.modelcontextprotocol/ui"
APP_URI = "ui://clock/face"
APP_TOOL: Json = {
    "name": "show_clock",
    "description": "Shows the time in an app.",
    "inputSchema": {"type": "object", "properties": {}},
    "_meta": {"ui": {"resourceUri": APP_URI, "visibility": ["model", "app"]}},
}
_APP = {
    "uri": APP_URI,
    "mimeType": "text/html;profile=mcp-app",
    "text": "<p>12:00</p>",
    "_meta": {"ui": {"csp": {"connectDomains": ["https://time.example"]}}},
}
_FOLDER = "inode/directory"
_MARKDOWN = "text/markdown"
_NAMES = {"pdf-forms": "Fills forms.", "trip-plans": "Plans trips."}
_CACHED = {"ttlMs": 60_000, "cacheScope": "public"}
_PAGE = 1
"""Skills on a page: two pages have to be joined by whoever merges."""


def _files() -> dict[str, tuple[str, str]]:
    """URI → text and media type."""
    found: dict[str, tuple[str, str]] = {}
    for name, description in _NAMES.items():
        head = f"---\nname: {name}\ndescription: {description}\n---\n\n# {name}\n"
        found[f"skill://{name}/SKILL.md"] = (head, _MARKDOWN)
        found[f"skill://{name}/references/more.md"] = (f"More of {name}.\n", _MARKDOWN)
    return found


FILES = _files()


def _entry(name: str) -> Json:
    def told(uri: str) -> Json:
        data = FILES[uri][0].encode()
        digest = hashlib.sha256(data).hexdigest()
        return {"uri": uri, "digest": f"sha256:{digest}", "size": len(data)}

    return {
        "uri": f"skill://{name}/SKILL.md",
        "frontmatter": {"name": name, "description": _NAMES[name]},
        "resources": [told(uri) for uri in FILES if uri.startswith(f"skill://{name}/")],
    }


class About(pydantic.BaseModel):
    """Params of every method of the extension."""

    model_config = pydantic.ConfigDict(extra="allow")
    uri: str = ""
    cursor: str = ""


class ExtensionsFixture:
    """The server."""

    def __init__(self, name: str) -> None:
        hint = CacheHint(ttl_ms=60_000, scope="public")
        cached = ("server/discover", "tools/list", "resources/list", "resources/read")
        self.server: Server[Any] = Server(
            name,
            version="1.0",
            cache_hints=dict.fromkeys(cached, hint),
            on_list_tools=self._tools,
            on_call_tool=self._call,
            on_list_resources=self._resources,
            on_read_resource=self._read,
            on_subscriptions_listen=ListenHandler(InMemorySubscriptionBus()),
        )
        self.server.extensions = {SKILLS: {"directoryRead": True}, UI: {}}
        for method, handler in (
            ("skills/list", self._list),
            ("skills/get", self._get),
            ("resources/directory/read", self._directory),
        ):
            self.server.add_request_handler(method, About, handler)

    async def _tools(self, ctx: Any, params: Any) -> Any:
        return {"resultType": "complete", "tools": [APP_TOOL]}

    async def _call(self, ctx: Any, params: Any) -> Any:
        if params.name != APP_TOOL["name"]:
            raise MCPError(-32602, f"unknown tool: {params.name}")
        return {"resultType": "complete", **text("12:00")}

    async def _resources(self, ctx: Any, params: Any) -> Any:
        skills = [
            {
                "uri": f"skill://{name}/SKILL.md",
                "name": name,
                "description": description,
                "mimeType": _MARKDOWN,
            }
            for name, description in _NAMES.items()
        ]
        app = {"uri": APP_URI, "name": "clock", "mimeType": _APP["mimeType"]}
        return {"resultType": "complete", "resources": [app, *skills]}

    async def _read(self, ctx: Any, params: Any) -> Any:
        uri = str(params.uri)
        if uri == APP_URI:
            return {"resultType": "complete", "contents": [_APP]}
        if uri not in FILES:
            raise MCPError(-32602, "Resource not found", {"uri": uri})
        words, kind = FILES[uri]
        content = {"uri": uri, "mimeType": kind, "text": words}
        return {"resultType": "complete", "contents": [content]}

    async def _list(self, ctx: Any, params: About) -> Any:
        names = sorted(_NAMES)
        start = int(params.cursor or 0)
        page = {"skills": [_entry(name) for name in names[start : start + _PAGE]]}
        more = {"nextCursor": str(start + _PAGE)} if start + _PAGE < len(names) else {}
        return {"resultType": "complete", **page, **more, **_CACHED}

    async def _get(self, ctx: Any, params: About) -> Any:
        for name in _NAMES:
            if params.uri == f"skill://{name}/SKILL.md":
                return {"resultType": "complete", "skill": _entry(name), **_CACHED}
        raise MCPError(-32602, "no such skill", {"uri": params.uri})

    async def _directory(self, ctx: Any, params: About) -> Any:
        folder = f"{params.uri.rstrip('/')}/"
        children: dict[str, Json] = {}
        for uri, (_, kind) in FILES.items():
            if uri.startswith(folder):
                name, deeper, _ = uri.removeprefix(folder).partition("/")
                shown = _FOLDER if deeper else kind
                children[name] = {"uri": f"{folder}{name}", "name": name, "mimeType": shown}
        if not children:
            raise MCPError(-32602, "not a directory", {"uri": params.uri})
        return {"resultType": "complete", "resources": list(children.values()), **_CACHED}


def main() -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", type=int, default=-1, metavar="PORT")
    parser.add_argument("--name", default="extensions-fixture")
    options = parser.parse_args()
    fixture = ExtensionsFixture(options.name)
    if options.http >= 0:
        everything.over_http(fixture.server, "modern", options.http)
    else:
        asyncio.run(everything.over_stdio(fixture.server, "modern"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
