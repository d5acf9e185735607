"""Proves that a first call will succeed, by making it: ``ready`` is never a guess.

Every gateway must list and call over HTTP and answer over TCP, and the tools of the sample
server must be listed. Servers the user configured get a grace period and then a remark: one
broken server must not keep the mesh from being ready.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from mcp_proto.endpoints import of_server
from mesh_cli import rpc
from mesh_cli.failure import Failure

__all__ = ["Edge", "Failed", "Proof", "prove"]

Failed = Callable[[Sequence[str]], Awaitable[set[str]]]
"""Names of servers → those whose start has failed."""

ECHO_TOOL = "echo"
_FIRST_PAUSE_S = 0.05
_PAUSE_MAX_S = 0.5
_PATIENCE_S = 20.0
"""After this long without success the reason is said, and again as often."""
SERVERS_GRACE_S = 10.0
"""How long configured servers may take to list their tools before ``ready`` goes on without."""
_REQUEST_S = 5.0


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway to prove: ``http://host:port`` and ``host:port``."""

    instance: str
    http: str
    tcp: str


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen: number of listed tools, and configured servers that list none yet."""

    tools: int
    missing: tuple[str, ...] = ()


class _Tool(msgspec.Struct, frozen=True):
    name: str


class _List(msgspec.Struct, frozen=True, rename="camel"):
    tools: tuple[_Tool, ...] = ()
    next_cursor: str | None = None


async def prove(
    edges: Sequence[Edge],
    servers: Sequence[str],
    *,
    required: Sequence[str] = (),
    token: str = "",
    failed: Failed,
    say: Callable[[str], None],
) -> Proof:
    """Return once a first call succeeds at every edge.

    Args:
        edges: the gateways.
        servers: configured servers whose tools should be listed.
        required: those of them that must be listed, however long it takes.
        token: credential; "" in development.
        failed: tells which of the servers have failed to start; nobody waits for those.
        say: told why it is not ready yet, from time to time.
    """
    for edge in edges:
        await _until(lambda edge=edge: _first_call(edge, token), edge.instance, say)
    return await _listed(edges[0].http, servers, required, token, failed, say)


async def _listed(
    base: str,
    servers: Sequence[str],
    required: Sequence[str],
    token: str,
    failed: Failed,
    say: Callable[[str], None],
) -> Proof:
    """Wait for the servers' tools: the required ones for ever, the others for their grace."""
    until = time.monotonic() + SERVERS_GRACE_S
    while True:
        names: frozenset[str] = frozenset()
        missing: tuple[str, ...] = ()

        def look() -> None:
            nonlocal names, missing
            names = tool_names(base, token)
            missing = tuple(name for name in servers if not _has(names, name, base, token))
            absent = [name for name in required if name in missing]
            if absent:
                raise Failure(f"no tools listed yet by {', '.join(absent)}")

        await _until(look, "tools/list", say)
        if not missing or time.monotonic() > until or set(missing) <= await failed(missing):
            return Proof(tools=len(names), missing=missing)
        await asyncio.sleep(_PAUSE_MAX_S)


def tool_names(base: str, token: str, endpoint: str = "") -> frozenset[str]:
    """Names of every tool listed at an endpoint, all pages."""
    names: set[str] = set()
    params: dict[str, Any] = {}
    for _ in range(50):
        page = msgspec.json.decode(
            rpc.post(
                base, "tools/list", params, token=token, timeout_s=_REQUEST_S, endpoint=endpoint
            ),
            type=_List,
        )
        names.update(tool.name for tool in page.tools)
        if not page.next_cursor:
            break
        params = {"cursor": page.next_cursor}
    return frozenset(names)


def _has(names: frozenset[str], server: str, base: str, token: str) -> bool:
    if any(name.startswith(f"{server}__") for name in names):
        return True
    # Listed without its prefix, or not in the list of all at all: its own endpoint knows.
    with contextlib.suppress(Failure):
        return bool(tool_names(base, token, of_server(server)))
    return False


def _first_call(edge: Edge, token: str) -> None:
    """One real call over each listener.

    Raises:
        Failure: it did not succeed.
    """
    params = {"name": ECHO_TOOL, "arguments": {"message": "ready"}}
    result = rpc.post(edge.http, "tools/call", params, token=token, timeout_s=_REQUEST_S)
    if b"ready" not in result or b'"isError":true' in result:
        raise Failure(f"echo over HTTP answered {result[:200].decode(errors='replace')}")
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}'
    if edge.tcp and b'"result"' not in (answer := rpc.tcp_line(edge.tcp, ping)):
        raise Failure(f"ping over TCP answered {answer[:200].decode(errors='replace')}")


async def _until(attempt: Callable[[], None], what: str, say: Callable[[str], None]) -> None:
    pause_s = _FIRST_PAUSE_S
    complain = time.monotonic() + _PATIENCE_S
    while True:
        try:
            await asyncio.to_thread(attempt)
        except (Failure, msgspec.DecodeError) as error:
            if time.monotonic() > complain:
                complain = time.monotonic() + _PATIENCE_S
                say(f"not ready yet ({what}): {error}")
        else:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(_PAUSE_MAX_S, pause_s * 1.3)
