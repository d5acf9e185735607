"""Who makes an MCP request from the command line, and by which way: bus or HTTP edge."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from mesh_cli import rpc
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import Target, checked_endpoint, target
from mesh_cli.plan import DEMO_TENANT
from mesh_cli.state import StateDir

__all__ = ["Caller", "Request", "caller"]

Request = Callable[[str, dict[str, Any]], Awaitable[bytes]]
"""Method and parameters → result as JSON bytes; raises ``Failure``."""

CALL_TIMEOUT_S = 60.0


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are made.

    Attributes:
        url: HTTP edge; "" = the bus.
        token: bearer token for ``url``.
        tenant: tenant on the bus.
        target: where the bus is.
        timeout_s: budget of one request.
        endpoint: "" = everything, ``u/<server>``, ``v/<virtual>``.
    """

    url: str
    token: str
    tenant: str
    target: Target
    timeout_s: float
    endpoint: str = ""

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Request, None]:
        """The way to make requests, open until the block ends."""
        if self.url:
            yield self._over_http
            return
        # Imported here: over HTTP the command needs none of the bus.
        from mesh_cli.platform import gateway_request, operator_bus  # noqa: PLC0415

        async with operator_bus(self.target) as bus:

            async def over_bus(method: str, params: dict[str, Any]) -> bytes:
                return await gateway_request(
                    bus,
                    self.tenant,
                    method,
                    params,
                    timeout_s=self.timeout_s,
                    endpoint=self.endpoint,
                )

            yield over_bus

    async def _over_http(self, method: str, params: dict[str, Any]) -> bytes:
        return await asyncio.to_thread(
            rpc.post,
            self.url,
            method,
            params,
            token=self.token,
            timeout_s=self.timeout_s,
            endpoint=self.endpoint,
        )


def caller(given: dict[str, Any]) -> Caller:
    """Build a caller from ``--url``, ``--token``, ``--tenant``, ``--endpoint`` and the connection.

    Raises:
        Failure: a token without an edge to give it to.
    """
    url: str = given.pop("url", None) or ""
    token: str = given.pop("token", "") or ""
    tenant: str = given.pop("tenant", "") or ""
    endpoint = checked_endpoint(given.pop("endpoint", "") or "")
    timed = bool(given.get("timeout"))
    goal = target(given)
    record = StateDir(Path(goal.state)).read_run() if goal.state else None
    tenant = tenant or (record.tenant if record is not None else DEMO_TENANT)
    if record is not None and not record.development and not url:
        # Who holds the state directory holds its credential: call as its owner.
        url = record.http
        token = token or _own_credential(goal)
    if url and "://" not in url:
        url = f"http://{url}"
    if url and not url.startswith(("http://", "https://")):
        raise Failure(f"{url} is not an HTTP address", code=Exit.USAGE)
    return Caller(
        url=url,
        token=token,
        tenant=tenant,
        target=goal,
        timeout_s=goal.timeout_s if timed else CALL_TIMEOUT_S,
        endpoint=endpoint,
    )


def _own_credential(goal: Target) -> str:
    """The credential of the directory's owner; "" when there is none."""
    try:
        return StateDir(Path(goal.state)).credential.read_text().strip()
    except OSError:
        return ""
