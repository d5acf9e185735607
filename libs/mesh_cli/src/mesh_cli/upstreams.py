"""MCP servers as the registry lists them, with what their runners say of them.

The registry knows what is listed and who holds it; only the runner that holds a server knows
whether its child lives and why not. An operator wants one row with both.
"""

from collections.abc import Iterable, Mapping

import msgspec

from mcp_proto.contracts import registry
from mcp_proto.contracts.registry import LeftOut, ListServers, ServerStatus
from mcp_proto.contracts.tool_runner import ServerView
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.connection import Bus
from mesh_sdk.server_views import read_views

__all__ = ["LEFT_OUT", "ServerRow", "merge", "server_rows"]

_NAMED_MAX = 5
_WELL = "running"
_OFF = "disabled"
_FAILING = "failing"
LEFT_OUT = "left out"
"""State of an agent that was found and is no server here."""

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


async def server_rows(bus: Bus, *, tenant: str = "") -> list[ServerRow]:
    """Every server, sorted by owner and name.

    Args:
        bus: connected as the operator, who alone may ask runners.
        tenant: only servers of this owner; "" = all.

    Raises:
        MeshError: the registry does not answer.
    """
    listed = await bus.operation(registry.list_servers, ListServers(tenant=tenant))
    rows = merge(listed.servers, await read_views(bus), tenant=tenant)
    return [*rows, *(_left_out(one) for one in listed.left_out)]


def _left_out(one: LeftOut) -> ServerRow:
    """An agent that discovery found and could not use; it may be named like a server."""
    return ServerRow(
        tenant=PLATFORM,
        server=one.name,
        state=LEFT_OUT,
        instances=(),
        tools=0,
        hash="",
        defined=one.origin,
        reason=one.reason,
    )


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
