"""``mesh virtual``: curated sets of what the servers offer, changed while the mesh runs."""

import asyncio
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from mcp_proto.contracts import virtuals
from mcp_proto.contracts.virtuals import (
    ListVirtuals,
    VirtualList,
    VirtualPrompt,
    VirtualPut,
    VirtualRemove,
    VirtualResource,
    VirtualServer,
    VirtualStatus,
    VirtualTool,
)
from mcp_proto.endpoints import PATH, of_virtual
from mcp_proto.subjects import PLATFORM
from mcp_proto.virtual_servers import virtual_problem
from mesh_cli import terminal
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import Target, connection_options, target
from mesh_cli.platform import ask, operator_bus

__all__ = ["command", "read_file"]

FILE_BYTES_MAX = 4 * 1024 * 1024

_HELP = {"help_option_names": ["-h", "--help"]}
_TABLE = "virtual_servers"


@click.group(context_settings=_HELP)
def command() -> None:
    """Add, remove, list and show virtual servers: curated sets at /mcp/v/NAME."""


@command.command("add")
@click.argument("name")
@click.option("--tool", "tools", multiple=True, metavar="SERVER:TOOL[=NAME]", help="Tool or glob.")
@click.option("--prompt", "prompts", multiple=True, metavar="SERVER:PROMPT[=NAME]", help="Prompt.")
@click.option("--resource", "resources", multiple=True, metavar="SERVER:URI", help="URI or glob.")
@click.option("--title", default="", help="Title shown to clients.")
@click.option("--description", default="", help="Description shown to clients.")
@click.option("--instructions", default="", help="Instructions for the model.")
@click.option(
    "--tool-list",
    type=click.Choice(["full", "search", "both"]),
    default=None,
    help="List all tools, the search tools alone, or both.",
)
@click.option("--tenant", default=PLATFORM, help="Who sees it; default: every tenant.")
@click.option("--replace", is_flag=True, help="Replace a virtual server of this name.")
@connection_options
def add(name: str, replace: bool, **given: Any) -> None:
    """Add virtual server NAME from flags; set-file knows more (arguments, roles, texts).

    \b
    mesh virtual add desk --tool notes:read --tool 'github:search_*' --tool git:log=history
    """  # noqa: D301 - click needs the character, not the two letters
    definition = VirtualServer(
        name=name,
        tenant=given.pop("tenant"),
        title=given.pop("title"),
        description=given.pop("description"),
        instructions=given.pop("instructions"),
        tools=tuple(
            VirtualTool(server=server, tool=own, name=shown)
            for server, own, shown in _specs(given.pop("tools"), "--tool")
        ),
        prompts=tuple(
            VirtualPrompt(server=server, prompt=own, name=shown)
            for server, own, shown in _specs(given.pop("prompts"), "--prompt")
        ),
        resources=tuple(
            VirtualResource(server=server, uri=uri)
            for server, uri in (_pair(one, "--resource") for one in given.pop("resources"))
        ),
        tool_list=given.pop("tool_list") or "",
    )
    _put(target(given), [definition], replace=replace)


@command.command("set-file")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@connection_options
def set_file(path: Path, **given: Any) -> None:
    """Add or replace the virtual servers of a TOML or JSON file.

    The file holds one definition, or [[virtual_servers]] as in mesh.toml.
    """
    _put(target(given), read_file(path), replace=True)


def read_file(path: Path) -> list[VirtualServer]:
    """The definitions in a file, checked.

    Raises:
        Failure: it cannot be read, or a definition is wrong; names the field.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", code=Exit.USAGE) from None
    if len(data) > FILE_BYTES_MAX:
        raise Failure(f"{path}: more than {FILE_BYTES_MAX} bytes", code=Exit.USAGE)
    try:
        content: Any = (
            msgspec.json.decode(data)
            if path.suffix.lower() == ".json"
            else tomllib.loads(data.decode())
        )
    except (msgspec.DecodeError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Failure(f"{path}: {error}", code=Exit.USAGE) from None
    many = isinstance(content, dict) and _TABLE in content
    tables: Any = content[_TABLE] if many else [content]
    return [
        _definition(table, f"{path}: {_TABLE}[{n}]" if many else str(path))
        for n, table in enumerate(tables if isinstance(tables, list) else [tables])
    ]


def _definition(table: object, where: str) -> VirtualServer:
    try:
        definition = msgspec.convert(table, VirtualServer)
    except msgspec.ValidationError as error:
        raise Failure(f"{where}: {error}", code=Exit.USAGE) from None
    _check(definition, where)
    return definition


def _check(definition: VirtualServer, where: str) -> None:
    problem = virtual_problem(definition)
    if problem is not None:
        raise Failure(f"{where}: {problem}", code=Exit.USAGE)


def _put(goal: Target, definitions: list[VirtualServer], *, replace: bool) -> None:
    for definition in definitions:
        _check(definition, definition.name or "virtual server")

    async def run() -> list[VirtualStatus]:
        async with operator_bus(goal) as bus:
            for one in definitions:
                await bus.operation(
                    virtuals.virtual_put, VirtualPut(definition=one, replace=replace)
                )
            listed = await bus.operation(virtuals.virtual_list, ListVirtuals())
        wanted = {(one.tenant, one.name) for one in definitions}
        return [
            row for row in listed.virtuals if (row.definition.tenant, row.definition.name) in wanted
        ]

    rows = asyncio.run(run())
    for row in rows:
        name = row.definition.name
        missing = f"; nobody offers: {', '.join(row.missing)}" if row.missing else ""
        terminal.line(f"{name} is at {PATH}/{of_virtual(name)}{missing}")
    if not rows:
        terminal.line(f"stored {', '.join(one.name for one in definitions)}")


@command.command("remove")
@click.argument("name")
@click.option("--tenant", default=PLATFORM, help="Who saw it; default: every tenant.")
@connection_options
def remove(name: str, tenant: str, **given: Any) -> None:
    """Remove a virtual server that was added while the mesh runs."""
    goal = target(given)
    params = VirtualRemove(name=name, tenant=tenant)
    asyncio.run(ask(goal, lambda bus: bus.operation(virtuals.virtual_remove, params)))
    terminal.line(f"removed {name}")


@command.command("list")
@click.option("--tenant", default="", help="Only those of this tenant.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def list_virtuals(tenant: str, as_json: bool, **given: Any) -> None:
    """List virtual servers, and what of them nobody offers now."""
    found = _listed(target(given), tenant)
    if as_json:
        terminal.line(terminal.pretty(found))
        return
    rows = [
        (
            one.definition.name,
            "all" if one.definition.tenant == PLATFORM else one.definition.tenant,
            "incomplete" if one.missing else "complete",
            str(len(one.definition.tools)),
            str(len(one.definition.prompts)),
            str(len(one.definition.resources)),
            one.defined,
            ", ".join(one.missing),
        )
        for one in found.virtuals
    ]
    heads = ("VIRTUAL", "TENANT", "STATE", "TOOLS", "PROMPTS", "RESOURCES", "DEFINED", "MISSING")
    width = len(heads) if any(one.missing for one in found.virtuals) else len(heads) - 1
    terminal.line(terminal.table(heads[:width], [row[:width] for row in rows]))


@command.command("show")
@click.argument("name")
@click.option("--tenant", default="", help="Who sees it, where the name alone is not enough.")
@connection_options
def show(name: str, tenant: str, **given: Any) -> None:
    """Print a virtual server as JSON; set-file takes what is printed."""
    found = _listed(target(given), tenant)
    rows = [one for one in found.virtuals if one.definition.name == name]
    if not rows:
        raise Failure(
            f"no virtual server {name}", mend="mesh virtual list shows them", code=Exit.REFUSED
        )
    if len(rows) > 1:
        owners = ", ".join(one.definition.tenant for one in rows)
        raise Failure(f"{name} is there for {owners}", mend="choose with --tenant", code=Exit.USAGE)
    terminal.line(terminal.pretty(rows[0].definition))


def _listed(goal: Target, tenant: str) -> VirtualList:
    params = ListVirtuals(tenant=tenant)
    found: VirtualList = asyncio.run(
        ask(goal, lambda bus: bus.operation(virtuals.virtual_list, params))
    )
    return found


def _specs(words: Iterable[str], option: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for word in words:
        server, rest = _pair(word, option)
        own, _, shown = rest.partition("=")
        found.append((server, own, shown))
    return found


def _pair(word: str, option: str) -> tuple[str, str]:
    server, colon, rest = word.partition(":")
    if not colon or not server or not rest:
        raise click.BadParameter(f"{word!r} is not SERVER:NAME", param_hint=option)
    return server, rest
