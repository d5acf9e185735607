"""``mesh client-config``: blocks to paste into the configuration of MCP clients.

Paths are absolute, because clients start commands from folders of their own. Every client gets
both ways where it knows both: HTTP (the mesh runs, the client connects) and stdio (the client
starts ``mesh stdio``, which connects).
"""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import tomlkit

from mesh_cli import terminal
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import checked_endpoint, with_state
from mesh_cli.state import DIRECTORY, find

__all__ = ["CLIENTS", "Way", "command", "render"]

_NAME = "mesh"
_TOKEN_VARIABLE = "MCP_AUTH_TOKEN"  # noqa: S105 - the name of a variable


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How a client reaches the mesh.

    Attributes:
        url: ``http://host:port/mcp``.
        argv: absolute command line of the stdio edge.
        token: whether HTTP needs a credential.
    """

    url: str
    argv: tuple[str, ...]
    token: bool = False


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to paste: ``title`` says where, ``text`` is the block."""

    title: str
    text: str


def _json(value: dict[str, Any]) -> str:
    return terminal.pretty(value)


def _stdio(way: Way) -> dict[str, Any]:
    # No credential: ``mesh stdio`` takes the key of the state directory's owner.
    return {"command": way.argv[0], "args": list(way.argv[1:])}


def _headers(way: Way) -> dict[str, Any]:
    return {"headers": {"Authorization": "Bearer <API key>"}} if way.token else {}


def _claude_desktop(way: Way) -> list[Block]:
    where = "claude_desktop_config.json (Settings, Developer, Edit Config)"
    return [Block(title=f"stdio: {where}", text=_json({"mcpServers": {_NAME: _stdio(way)}}))]


def _claude_code(way: Way) -> list[Block]:
    bearer = ' --header "Authorization: Bearer <API key>"' if way.token else ""
    http = {"type": "http", "url": way.url, **_headers(way)}
    return [
        Block(
            title="HTTP: run once",
            text=f"claude mcp add --transport http {_NAME} {way.url}{bearer}",
        ),
        Block(
            title="stdio: run once",
            text=f"claude mcp add {_NAME} -- {shlex.join(way.argv)}",
        ),
        Block(title="or HTTP: .mcp.json", text=_json({"mcpServers": {_NAME: http}})),
    ]


def _cursor(way: Way) -> list[Block]:
    where = "~/.cursor/mcp.json or .cursor/mcp.json"
    return [
        Block(
            title=f"HTTP: {where}",
            text=_json({"mcpServers": {_NAME: {"url": way.url, **_headers(way)}}}),
        ),
        Block(title=f"stdio: {where}", text=_json({"mcpServers": {_NAME: _stdio(way)}})),
    ]


def _vscode(way: Way) -> list[Block]:
    where = ".vscode/mcp.json"
    http = {"type": "http", "url": way.url, **_headers(way)}
    return [
        Block(title=f"HTTP: {where}", text=_json({"servers": {_NAME: http}})),
        Block(
            title=f"stdio: {where}",
            text=_json({"servers": {_NAME: {"type": "stdio", **_stdio(way)}}}),
        ),
    ]


def _codex(way: Way) -> list[Block]:
    where = "~/.codex/config.toml"
    http: dict[str, Any] = {"url": way.url}
    if way.token:
        http["bearer_token_env_var"] = _TOKEN_VARIABLE
    return [
        Block(title=f"HTTP: {where}", text=tomlkit.dumps({"mcp_servers": {_NAME: http}}).strip()),
        Block(
            title=f"stdio: {where}",
            text=tomlkit.dumps({"mcp_servers": {_NAME: _stdio(way)}}).strip(),
        ),
    ]


def _windsurf(way: Way) -> list[Block]:
    where = "~/.codeium/windsurf/mcp_config.json"
    http = {"serverUrl": way.url, **_headers(way)}
    return [
        Block(title=f"HTTP: {where}", text=_json({"mcpServers": {_NAME: http}})),
        Block(title=f"stdio: {where}", text=_json({"mcpServers": {_NAME: _stdio(way)}})),
    ]


def _gemini(way: Way) -> list[Block]:
    where = "~/.gemini/settings.json"
    http = {"httpUrl": way.url, **_headers(way)}
    return [
        Block(title=f"HTTP: {where}", text=_json({"mcpServers": {_NAME: http}})),
        Block(title=f"stdio: {where}", text=_json({"mcpServers": {_NAME: _stdio(way)}})),
    ]


def _zed(way: Way) -> list[Block]:
    where = "settings.json of Zed"
    http = {"url": way.url, **_headers(way)}
    return [
        Block(title=f"HTTP: {where}", text=_json({"context_servers": {_NAME: http}})),
        Block(title=f"stdio: {where}", text=_json({"context_servers": {_NAME: _stdio(way)}})),
    ]


def _generic(way: Way) -> list[Block]:
    return [
        Block(title="HTTP (streamable HTTP)", text=way.url),
        Block(title="stdio", text=_json({"mcpServers": {_NAME: _stdio(way)}})),
    ]


CLIENTS: dict[str, tuple[str, Callable[[Way], list[Block]]]] = {
    "claude-desktop": ("Claude Desktop", _claude_desktop),
    "claude-code": ("Claude Code", _claude_code),
    "cursor": ("Cursor", _cursor),
    "vscode": ("VS Code", _vscode),
    "codex": ("Codex", _codex),
    "windsurf": ("Windsurf", _windsurf),
    "gemini": ("Gemini CLI", _gemini),
    "zed": ("Zed", _zed),
    "generic": ("any other client", _generic),
}


def render(client: str, way: Way) -> str:
    """The blocks for one client."""
    title, blocks = CLIENTS[client]
    parts = [f"# {block.title}\n{block.text}" for block in blocks(way)]
    return "\n\n".join([f"## {title}", *parts])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("client", required=False, type=click.Choice(tuple(CLIENTS)))
@click.option("--url", default="", help="HTTP edge, when it is not the one of this directory.")
@click.option("--endpoint", default="", metavar="NAME", help="u/<server> or v/<virtual server>.")
@with_state
def command(client: str | None, url: str, endpoint: str, state: str | None) -> None:
    """Print blocks to paste into the configuration of CLIENT, or of all known clients."""
    found = find(state)
    if found is None:
        raise Failure(
            f"no {DIRECTORY} directory here or above",
            mend="start a mesh with: mesh up   (or name its directory with --state)",
            code=Exit.UNREACHABLE,
        )
    record = found.read_run()
    base = url or (record.http if record is not None else "http://127.0.0.1:3000")
    base = base if base.rstrip("/").endswith("/mcp") else f"{base.rstrip('/')}/mcp"
    only = ("--endpoint", checked_endpoint(endpoint)) if endpoint else ()
    way = Way(
        url=f"{base.rstrip('/')}/{endpoint}" if endpoint else base,
        argv=(*mesh_command(), "stdio", "--state", str(found.root), *only),
        token=record is not None and not record.development,
    )
    chosen = (client,) if client is not None else tuple(CLIENTS)
    terminal.line("\n\n".join(render(name, way) for name in chosen))


def mesh_command() -> tuple[str, ...]:
    """Absolute command line of this program."""
    script = Path(sys.executable).with_name("mesh")
    if os.access(script, os.X_OK):
        return (str(script),)
    return (sys.executable, "-P", "-m", "mesh_cli")
