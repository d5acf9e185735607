"""``mesh server``: MCP servers added, removed and restarted while the mesh runs; broker info."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import click

from mcp_proto.contracts import registry
from mcp_proto.contracts.registry import (
    ListServers,
    RestartServer,
    ServerDefinition,
    ServerPut,
    ServerRemove,
    ServerStatus,
)
from mcp_proto.ids import is_server_name
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.connection import Bus
from mesh_cli import jetstream, terminal
from mesh_cli.connection import connected
from mesh_cli.deployed_server import deployed, deployed_options
from mesh_cli.failure import Exit, Failure
from mesh_cli.login import signed_in
from mesh_cli.options import DURATION, connection_options, target
from mesh_cli.platform import ask, operator_bus
from mesh_cli.remote_server import defined, remote_options
from mesh_cli.upstreams import ServerRow, server_rows
from mesh_cli.walls import sandbox_options, walls_options
from mesh_sdk.server_views import Trouble, last_error

__all__ = ["command"]

_POLL_S = 0.2
_PROBE_AFTER_S = 3.0
_PROBE_EVERY_S = 1.0
_FAILURES_MAX = 4
"""Looks in a row that find a failed start: it will not come up while we wait."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Add, remove, restart and list MCP servers; broker info."""


@command.command("add", context_settings={"ignore_unknown_options": False})
@click.argument("name")
@click.argument("words", nargs=-1, metavar="[URL | -- COMMAND [ARGS]…]")
@click.option("--env", "variables", multiple=True, metavar="K=V", help="A variable for it.")
@click.option("--cwd", default="", help="Its working directory.")
@remote_options
@deployed_options
@walls_options
@click.option("--tenant", default=PLATFORM, help="Owner; default: shared by all tenants.")
@click.option("--call-timeout", type=DURATION, default="30s", help="Longest call.")
@click.option("--concurrency", type=click.IntRange(1, 1024), default=32, help="Calls in flight.")
@click.option("--no-prefix", is_flag=True, help="List its tools under their own names.")
@click.option("--replace", is_flag=True, help="Replace a server of this name.")
@click.option("--wait", "wait_s", type=DURATION, default="30s", help="Wait for its tools; 0 = no.")
@connection_options
def add(name: str, words: tuple[str, ...], **given: Any) -> None:
    """Add MCP server NAME, which is at URL or runs COMMAND; wait until its tools are there.

    With --image it is run in a container, with --type by the runner itself (docker, prometheus, …).
    A URL is http(s)://… (streamable HTTP of either era, or --transport sse) or tcp://HOST:PORT.
    Secrets are named, never given: env:NAME, file:PATH or aws:NAME, as the runner sees them.
    """
    if not is_server_name(name):
        raise Failure(
            f"{name!r} cannot be a server name",
            mend="letters, digits, '_', '.' and '-', at most 40, no '__'",
            code=Exit.USAGE,
        )
    plain = ServerDefinition(
        name=name,
        env=_variables(given["variables"]),
        cwd=given["cwd"],
        prefix="" if given["no_prefix"] else None,
        tenant=given["tenant"],
        timeout_s=given["call_timeout"],
        concurrency=given["concurrency"],
        isolation=given["isolation"] or "",
        sandbox=sandbox_options(given["sandbox"]),
    )
    definition = deployed(plain, words, given)
    if definition is None:
        if not words:
            raise Failure(
                "a server is at a URL, runs a command, or has a --type or an --image",
                mend="see mesh server add --help",
                code=Exit.USAGE,
            )
        definition = defined(plain, words, given)
    goal = target(given)

    async def run() -> ServerStatus | None:
        async with operator_bus(goal) as bus:
            put = ServerPut(definition=definition, replace=given["replace"])
            await bus.operation(registry.server_put, put)
            if not given["wait_s"]:
                return None
            return await _running(bus, definition, given["wait_s"])

    row = asyncio.run(run())
    if row is None:
        terminal.line(f"added {name}; mesh server list shows when its tools are there")
        return
    terminal.line(f"added {name}: {row.tools} tools on {', '.join(row.instances)}")


async def _running(bus: Bus, definition: ServerDefinition, wait_s: float) -> ServerStatus:
    """Wait until the server's tools are known.

    Raises:
        Failure: it did not come up; says why, and that it stays configured.
    """
    until = time.monotonic() + wait_s
    probe_at = time.monotonic() + _PROBE_AFTER_S
    trouble = Trouble("no runner has started it yet")
    failures = 0
    while time.monotonic() < until and failures < _FAILURES_MAX:
        row = await _status(bus, definition)
        if row is not None and row.state == "running" and row.hash:
            return row
        if time.monotonic() >= probe_at:
            probe_at = time.monotonic() + _PROBE_EVERY_S
            trouble = await last_error(bus, definition.tenant, definition.name)
            failures = failures + 1 if trouble.failed else 0
        await asyncio.sleep(_POLL_S)
    raise Failure(
        f"server {definition.name} is configured but gives no tools: {trouble.words}",
        mend=f"correct it with mesh server add --replace {definition.name} …, or "
        f"mesh server remove {definition.name}",
    )


async def _status(bus: Bus, definition: ServerDefinition) -> ServerStatus | None:
    listed = await bus.operation(registry.list_servers, ListServers(tenant=definition.tenant))
    for row in listed.servers:
        if row.server == definition.name:
            return row
    return None


@command.command("remove")
@click.argument("name")
@click.option("--tenant", default=PLATFORM, help="Owner; default: shared.")
@connection_options
def remove(name: str, tenant: str, **given: Any) -> None:
    """Remove a server that was added while the mesh runs."""
    goal = target(given)
    params = ServerRemove(name=name, tenant=tenant)
    asyncio.run(ask(goal, lambda bus: bus.operation(registry.server_remove, params)))
    terminal.line(f"removed {name}")


@command.command("login")
@click.argument("name")
@click.option("--tenant", default=PLATFORM, help="Owner; default: shared.")
@click.option("--wait", "wait_s", type=DURATION, default="5m", help="How long you may take.")
@connection_options
def login(name: str, tenant: str, wait_s: float, **given: Any) -> None:
    """Sign in to a server that wants a person's consent (OAuth)."""
    goal = target(given)
    asyncio.run(ask(goal, lambda bus: signed_in(bus, tenant, name, wait_s=wait_s)))
    terminal.line(f"signed in to {name}; mesh server list shows when its tools are there")


@command.command("restart")
@click.argument("name")
@click.option("--tenant", default=PLATFORM, help="Owner; default: shared.")
@connection_options
def restart(name: str, tenant: str, **given: Any) -> None:
    """Restart the process of a server."""
    goal = target(given)
    params = RestartServer(name=name, tenant=tenant)
    asyncio.run(ask(goal, lambda bus: bus.operation(registry.server_restart, params)))
    terminal.line(f"restarting {name}")


@command.command("list")
@click.option("--tenant", default="", help="Only servers of this owner.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def list_servers(tenant: str, as_json: bool, **given: Any) -> None:
    """List servers: where they run, how many tools they have, and why one does not serve."""
    goal = target(given)
    found: list[ServerRow] = asyncio.run(ask(goal, lambda bus: server_rows(bus, tenant=tenant)))
    if as_json:
        terminal.line(terminal.pretty(found))
        return
    rows = [
        (
            row.server,
            "shared" if row.tenant == PLATFORM else row.tenant,
            row.state,
            str(row.tools),
            row.defined,
            ", ".join(row.instances),
            row.note,
        )
        for row in found
    ]
    heads = ("SERVER", "TENANT", "STATE", "TOOLS", "DEFINED", "RUNS ON", "REASON")
    width = len(heads) if any(row.note for row in found) else len(heads) - 1
    terminal.line(terminal.table(heads[:width], [row[:width] for row in rows]))


@command.command("info")
@connection_options
def info(**given: Any) -> None:
    """Show the broker this connection reaches, and what the account stores."""
    goal = target(given)

    async def run() -> list[tuple[str, str]]:
        async with connected(goal) as client:
            began = time.perf_counter()
            await client.flush()
            rtt = time.perf_counter() - began
            stored = await jetstream.account_info(client, goal.timeout_s)
            url = client.connected_url
            version = client.connected_server_version
            return [
                ("url", url.netloc if url is not None else ""),
                ("version", f"nats-server {version.major}.{version.minor}.{version.patch}"),
                ("client id", str(client.client_id)),
                ("max payload", terminal.quantity(client.max_payload)),
                ("round trip", terminal.duration(rtt)),
                ("streams", str(stored.streams)),
                ("consumers", str(stored.consumers)),
                ("memory", terminal.quantity(stored.memory)),
                ("file", terminal.quantity(stored.storage)),
            ]

    for label, value in asyncio.run(run()):
        terminal.line(f"{label + ':':<14}{value}")


def _variables(pairs: Sequence[str]) -> dict[str, str]:
    table: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Failure(f"{pair!r} is not NAME=VALUE", code=Exit.USAGE)
        table[key] = value
    return table
