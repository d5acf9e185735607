"""``mesh tools``: the tools a caller may use, as the gateway lists them."""

import asyncio
from typing import Any

import click
import msgspec

from mesh_cli import terminal
from mesh_cli.options import connection_options
from mesh_cli.session import Request, caller

__all__ = ["Tool", "command", "list_tools"]

_PAGES_MAX = 50
_TEXT_CHARS = 90


class Tool(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the table shows of a tool."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}


class _Page(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    tools: tuple[msgspec.Raw, ...] = ()
    next_cursor: str | None = None


async def raw_tools(request: Request) -> list[bytes]:
    """Every listed tool as its JSON, all pages."""
    found: list[bytes] = []
    params: dict[str, Any] = {}
    for _ in range(_PAGES_MAX):
        page = msgspec.json.decode(await request("tools/list", params), type=_Page)
        found.extend(bytes(tool) for tool in page.tools)
        if not page.next_cursor:
            break
        params = {"cursor": page.next_cursor}
    return found


async def list_tools(request: Request) -> list[Tool]:
    """Every listed tool, decoded."""
    return [msgspec.json.decode(tool, type=Tool) for tool in await raw_tools(request)]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pattern", required=False, default="")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the complete tools as JSON.")
@click.option("--url", metavar="URL", help="Ask this HTTP edge instead of the bus.")
@click.option("--token", envvar="MCP_AUTH_TOKEN", default="", help="Credential for --url.")
@click.option("--tenant", default="", help="Tenant to list for (bus only).")
@click.option("--endpoint", default="", metavar="NAME", help="u/<server> or v/<virtual server>.")
@connection_options
def command(pattern: str, as_json: bool, **given: Any) -> None:
    """List the tools a caller may use; with PATTERN those whose name contains it."""
    who = caller(given)

    async def run() -> list[bytes]:
        async with who.open() as request:
            return await raw_tools(request)

    found = [(msgspec.json.decode(tool, type=Tool), tool) for tool in asyncio.run(run())]
    chosen = [(tool, raw) for tool, raw in found if pattern in tool.name]
    if as_json:
        terminal.line(terminal.pretty(b"[" + b",".join(raw for _, raw in chosen) + b"]"))
        return
    rows = [(tool.name, _arguments(tool), _first_line(tool.description)) for tool, _ in chosen]
    terminal.line(terminal.table(("TOOL", "ARGUMENTS", "DESCRIPTION"), rows))


def _arguments(tool: Tool) -> str:
    required = set(tool.input_schema.get("required", ()))
    names = tool.input_schema.get("properties", {})
    return " ".join(name if name in required else f"[{name}]" for name in names)


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= _TEXT_CHARS else f"{line[: _TEXT_CHARS - 1]}…"
