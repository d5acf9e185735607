"""Options of ``mesh server add`` for the walls around a server, and which of them this host has."""

import asyncio
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from mcp_proto.containers import ContainersTable
from mcp_proto.sandboxes import ISOLATIONS, SandboxOptions, SandboxTable
from mesh_chassis.children import Children
from mesh_chassis.sandbox.launch import Sandboxes
from mesh_cli.failure import Exit, Failure

__all__ = ["Wall", "sandbox_options", "walls", "walls_options"]

CONNECT_S = 2.0

F = TypeVar("F", bound=Callable[..., Any])


class Wall(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one isolation works on this host, and a sentence about it."""

    isolation: str
    works: bool
    said: str


def walls_options(command: F) -> F:
    """Add ``--isolation`` and ``--sandbox``."""
    for option in (
        click.option(
            "--sandbox",
            multiple=True,
            metavar="K=V",
            help="What it may in its sandbox: read_only=/srv/data, network=host, memory_mb=256 …",
        ),
        click.option(
            "--isolation",
            type=click.Choice(ISOLATIONS),
            help="Walls around its process; default: none, of a tenant's own server a sandbox.",
        ),
    ):
        command = option(command)
    return command


def sandbox_options(pairs: Sequence[str]) -> SandboxOptions | None:
    """What ``--sandbox`` says; a list's key may be given several times.

    Raises:
        Failure: a pair that is none, an unknown key, or a value of the wrong kind.
    """
    if not pairs:
        return None
    table: dict[str, Any] = {}
    lists = {"read_only", "read_write", "environment"}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise Failure(f"{pair!r} is not NAME=VALUE", code=Exit.USAGE)
        if key in lists:
            table.setdefault(key, []).append(text)
        else:
            table[key] = text
    try:
        return msgspec.convert(table, SandboxOptions, strict=False)
    except msgspec.ValidationError as error:
        raise Failure(
            f"--sandbox: {error}", mend="see docs/guides/isolate-a-server.md", code=Exit.USAGE
        ) from None


async def walls(containers: ContainersTable, sandbox: SandboxTable) -> list[Wall]:
    """Try every isolation that servers can ask for."""
    return [
        Wall(isolation="none", works=True, said="a plain process with the rights of its runner"),
        await _sandbox(sandbox),
        await _container(containers),
        Wall(isolation="vm", works=False, said="not built yet"),
    ]


async def _sandbox(table: SandboxTable) -> Wall:
    children = Children()
    try:
        report = await Sandboxes(children, uid=table.uid).probe()
    finally:
        await children.close()
    if not report.available:
        return Wall(isolation="sandbox", works=False, said=report.reason)
    said = f"bubblewrap {report.version}, programs have uid {report.uid}, limits: {report.limits}"
    return Wall(isolation="sandbox", works=True, said=said)


async def _container(table: ContainersTable) -> Wall:
    """Whether somebody listens where the engine should be; servers still need an image."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await _opened(table.engine)
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", "") or "it does not answer"
        said = f"no Docker engine at {table.engine}: {reason}"
        return Wall(isolation="container", works=False, said=said)
    writer.close()
    return Wall(isolation="container", works=True, said=f"a Docker engine at {table.engine}")


async def _opened(engine: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    scheme, _, rest = engine.partition("://")
    if scheme == "unix":
        if not stat.S_ISSOCK(Path(rest).stat().st_mode):  # noqa: ASYNC240 - one look at the disk
            raise OSError(0, "it is no socket")
        return await asyncio.open_unix_connection(rest)
    host, _, port = rest.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))
