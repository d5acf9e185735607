"""``mesh call``: call a tool as a client would, over the bus or an HTTP edge."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click
import msgspec

from mesh_cli import arguments, terminal
from mesh_cli.commands.tools import list_tools
from mesh_cli.failure import Exit
from mesh_cli.options import connection_options
from mesh_cli.session import caller

__all__ = ["command"]


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    text: str | None = None


class _Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    content: tuple[msgspec.Raw, ...] = ()
    structured_content: msgspec.Raw = msgspec.Raw(b"")
    is_error: bool = False


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("tool")
@click.argument("words", nargs=-1, metavar="[JSON | KEY=VALUE …]")
@click.option("--url", metavar="URL", help="Call over HTTP at this edge instead of the bus.")
@click.option("--token", envvar="MCP_AUTH_TOKEN", default="", help="Credential for --url.")
@click.option("--tenant", default="", help="Tenant to call as (bus only).")
@click.option("-r", "--raw", is_flag=True, help="Print the whole result as JSON.")
@click.option("--endpoint", default="", metavar="NAME", help="u/<server> or v/<virtual server>.")
@connection_options
def command(tool: str, words: tuple[str, ...], raw: bool, **given: Any) -> int:
    """Call TOOL (server:tool, or a name as listed) with arguments.

    \b
    mesh call echo message=hello
    mesh call time:get_current_time timezone=Europe/Rome
    mesh call kv_set '{"key":"a","value":1}'
    mesh call kv_set key=a value:=1

    Exit codes: 0 done, 1 the tool reported an error, 2 bad arguments, 3 the mesh is not
    reachable, 4 the mesh refused or failed the call.
    """  # noqa: D301 - click needs the character, not the two letters
    who = caller(given)

    async def run() -> bytes:
        async with who.open() as request:
            schema = await _schema(request, tool) if arguments.needs_schema(words) else None
            params = {"name": tool, "arguments": arguments.parse(words, schema)}
            return await request("tools/call", params)

    result = asyncio.run(run())
    if raw:
        terminal.line(result.decode())
        return Exit.FAILED if _decode(result).is_error else Exit.OK
    return _show(result)


async def _schema(
    request: Callable[[str, dict[str, Any]], Awaitable[bytes]], name: str
) -> dict[str, Any] | None:
    """The input schema of a tool by any of its names; None when it is not listed."""
    listed = name.replace(":", "__", 1)
    for tool in await list_tools(request):
        if tool.name in (name, listed, name.partition(":")[2]):
            return tool.input_schema
    return None


def _decode(result: bytes) -> _Result:
    try:
        return msgspec.json.decode(result, type=_Result)
    except msgspec.DecodeError:
        return _Result(structured_content=msgspec.Raw(result))


def _show(result: bytes) -> int:
    decoded = _decode(result)
    shown = False
    for item in decoded.content:
        block = msgspec.json.decode(item, type=_Content)
        if block.type == "text" and block.text is not None:
            terminal.line(_readable(block.text))
        else:
            terminal.line(terminal.pretty(bytes(item)))
        shown = True
    structured = bytes(decoded.structured_content)
    if structured and not shown:
        terminal.line(terminal.pretty(structured))
    return Exit.FAILED if decoded.is_error else Exit.OK


def _readable(text: str) -> str:
    """JSON text is indented, other text printed as it is."""
    return terminal.pretty(text.encode()) if text[:1] in "{[" and text else text
