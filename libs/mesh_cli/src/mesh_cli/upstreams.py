"""MCP servers as the registry lists them, with what their runners say of them.

The registry knows what is listed and who holds it; only the runner that holds a server knows
whether its child lives and why not. An operator wants one row with both.
"""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts import registry, tool_runner
from mcp_proto.contracts.registry import ListServers, ServerStatus
from mcp_proto.contracts.tool_runner import ServerView, ServerViews
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus

__all__ = ["ServerRow", "Trouble", "last_error", "merge", "read_views", "server_rows"]

_PROBE_S = 2.0
_NAMED_MAX = 5
_WELL = "running"
_OFF = "disabled"
_FAILING = "failing"

Pair = tuple[str, str]


class ServerRow(ServerStatus, frozen=True, kw_only=True, rename="camel"):
    """A server as an operator sees it.

    ``state`` is that of ``ServerStatus``, or what the runner says: ``starting``, ``failing`` (it
    is tried again, or answers calls with failures), ``quarantined`` (it is no longer tried) or
    ``refused`` (its definition cannot be run).

    Attributes:
        reason: why it does not serve; "" while it does.
        pid: process id of its child; 0 = none.
        log: newest lines of the child's stderr.
    """

    reason: str = ""
    pid: int = 0
    log: tuple[str, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether calls to it can succeed, or shall not (it is disabled)."""
        return self.state in {_WELL, _OFF}

    @property
    def note(self) -> str:
        """Why it does not serve, or which of its tools nobody sees; "" when all is well."""
        if self.reason or not self.hidden:
            return self.reason
        names = ", ".join(self.hidden[:_NAMED_MAX])
        more = "…" if len(self.hidden) > _NAMED_MAX else ""
        return f"{len(self.hidden)} tools hidden, their names are taken: {names}{more}"

    @property
    def words(self) -> str:
        """Why it does not serve, with the last thing its child said."""
        last = f"; it last said: {self.log[-1]}" if self.log else ""
        return f"{self.reason}{last}"


class Trouble(msgspec.Struct, frozen=True):
    """Why a server does not serve: words for a person, and its state at the runner.

    ``state`` is that of ``ServerView``; "" when no runner told.
    """

    words: str
    state: str = ""

    @property
    def failed(self) -> bool:
        """Whether a start has failed already."""
        return self.state in tool_runner.FAILED_STATES


async def server_rows(bus: Bus, *, tenant: str = "") -> list[ServerRow]:
    """Every server, sorted by owner and name.

    Args:
        bus: connected as the operator, who alone may ask runners.
        tenant: only servers of this owner; "" = all.

    Raises:
        MeshError: the registry does not answer.
    """
    listed = await bus.operation(registry.list_servers, ListServers(tenant=tenant))
    return merge(listed.servers, await read_views(bus), tenant=tenant)


def merge(
    listed: Iterable[ServerStatus], views: Mapping[Pair, ServerView], *, tenant: str = ""
) -> list[ServerRow]:
    """Lay what runners say over what the registry lists.

    Args:
        listed: rows of the registry.
        views: see ``read_views``.
        tenant: only servers of this owner; "" = all.
    """
    rows = {(one.tenant, one.server): one for one in listed}
    for owner, name in views.keys() - rows.keys():
        if tenant in {"", owner}:
            rows[owner, name] = ServerStatus(
                tenant=owner, server=name, state="down", instances=(), tools=0, hash="",
                defined="config",
            )  # fmt: skip
    return [_row(row, views.get(pair)) for pair, row in sorted(rows.items())]


def _row(row: ServerStatus, view: ServerView | None) -> ServerRow:
    known = ServerRow(**msgspec.structs.asdict(row))
    if view is None or row.state == _OFF:
        down = row.state == "down"
        return msgspec.structs.replace(known, reason="no runner serves it" if down else "")
    state, reason = _state(row, view)
    return msgspec.structs.replace(known, state=state, reason=reason, pid=view.pid, log=view.log)


def _state(row: ServerStatus, view: ServerView) -> Pair:
    match view.state:
        case "running" if view.breaker != "closed":
            return _FAILING, "it runs, but calls to it fail and it is left alone for a while"
        case "running" if not row.hash:
            return "starting", "it runs, but its tools are not listed yet"
        case "running":
            return _WELL, ""
        case "waiting":
            return _FAILING, view.reason
        case "starting" if view.reason:
            return _FAILING, view.reason  # of the life before
        case "starting":
            return view.state, "it is starting"
        case "stopped":
            return "down", view.reason or "it is stopped"
        case _:
            return view.state, view.reason


async def read_views(bus: Bus) -> dict[Pair, ServerView]:
    """What the runners that live say, by owner and name."""
    found: dict[Pair, ServerView] = {}
    answers = await asyncio.gather(*(_views(bus, name) for name in await _runners(bus)))
    for view in (view for answer in answers for view in answer):
        known = found.get((view.tenant, view.server))
        # A runner that holds it knows more than one that only refuses its definition.
        if known is None or known.state == "refused":
            found[view.tenant, view.server] = view
    return found


async def last_error(bus: Bus, owner: str, server: str) -> Trouble:
    """Why a server that is down does not serve, in the words of its runner.

    Args:
        bus: connected as the operator, who alone may ask.
        owner: tenant of the server; ``_`` = shared.
        server: its name.
    """
    found = (await read_views(bus)).get((owner, server))
    if found is None:
        return Trouble("no runner serves it")
    if found.state == _WELL:
        return Trouble("it answers again")
    return Trouble(found.reason or f"it is {found.state}", found.state)


async def _runners(bus: Bus) -> list[str]:
    """Instances of tool-runner that live, by their heartbeats."""
    keys = await KV.bind(bus, buckets.INSTANCES).keys(f"{tool_runner.SERVICE}.")
    return [key.partition(".")[2] for key in keys]


async def _views(bus: Bus, instance: str) -> tuple[ServerView, ...]:
    try:
        reply = await bus.request(tool_runner.views_subject(instance), timeout_s=_PROBE_S)
        return msgspec.json.decode(reply.payload, type=ServerViews).servers
    except (MeshError, msgspec.DecodeError):
        return ()  # it has just gone, or answers something else
