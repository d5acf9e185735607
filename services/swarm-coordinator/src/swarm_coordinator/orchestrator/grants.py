"""Delegated grants: what a task does, it does with its submitter's rights, and only so long.

A stored work item would outlive any signed context, so the owner keeps the id of a grant and
exchanges it for a fresh context as work goes out.
"""

import asyncio
import logging
from collections import OrderedDict

import msgspec

from mcp_proto.contracts import tenant_auth
from mcp_proto.contracts.tenant_auth import (
    GRANTS_REVOKED_MAX,
    Delegate,
    Exchange,
    RevokeGrant,
)
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["Grants"]

CACHED_MAX = 2_000
"""Contexts kept: more than the tasks that run at once on one replica."""
ASK_S = 5.0
GATHER_S = 0.1
"""Every task that ends ends its grant: those of a moment go in one request."""
_log = logging.getLogger(__name__)


class _Context(msgspec.Struct, frozen=True):
    context: str
    renew_ms: int


class Grants:
    """Grants of the tasks of all swarms of this replica.

    Args:
        bus: connected.
        tasks: parent of what is asked for several who wait.
    """

    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self._bus = bus
        self._tasks = tasks
        self._contexts: OrderedDict[str, _Context] = OrderedDict()
        self._asking: dict[str, asyncio.Task[str | MeshError]] = {}
        self._ended: dict[str, None] = {}
        self._revoking: asyncio.Task[None] | None = None

    async def delegate(self, context: str, task: str, deadline_ms: int) -> str:
        """Let a task act for whoever signed ``context`` stands for; the id of the grant.

        Raises:
            MeshError: ``denied`` beyond the depth of delegation, ``unauthenticated``, no answer.
        """
        ask = Delegate(context=context, task=task, deadline_ms=deadline_ms)
        answer = await self._bus.operation(tenant_auth.delegate, ask, timeout_s=ASK_S)
        if answer.context:
            self._keep(answer.grant, answer.context, answer.context_expires_ms)
        return answer.grant

    async def context_of(self, grant: str) -> str:
        """A context that lives at least half of its life from now; "" without a grant.

        Raises:
            MeshError: ``unauthenticated`` when the grant has ended, or no answer.
        """
        if not grant:
            return ""
        known = self._contexts.get(grant)
        if known is not None and self._bus.server_now_ms() < known.renew_ms:
            self._contexts.move_to_end(grant)
            return known.context
        asking = self._asking.get(grant)
        if asking is None:
            asking = self._tasks.spawn(self._exchange(grant), name="exchange-grant")
            self._asking[grant] = asking
            asking.add_done_callback(lambda _done: self._asking.pop(grant, None))
        answer = await asyncio.shield(asking)
        if isinstance(answer, MeshError):
            raise answer
        return answer

    def revoke(self, grant: str) -> None:
        """End a grant soon; one that cannot be ended then ends with its deadline."""
        self._contexts.pop(grant, None)
        self._ended[grant] = None
        if self._revoking is None or self._revoking.done():
            try:
                self._revoking = self._tasks.spawn(self._revoke_soon(), name="revoke-grants")
            except TasksFullError:
                _log.info("a grant is left to end by itself: the coordinator ends")

    async def flush(self) -> None:
        """End now what is to be ended."""
        while self._ended:
            first, *others = list(self._ended)[:GRANTS_REVOKED_MAX]
            for grant in (first, *others):
                del self._ended[grant]
            ask = RevokeGrant(grant=first, others=tuple(others))
            try:
                await self._bus.operation(tenant_auth.revoke_grant, ask, timeout_s=ASK_S)
            except MeshError as error:
                _log.info("grants are left to end by themselves: %s", error.message)

    async def _revoke_soon(self) -> None:
        await asyncio.sleep(GATHER_S)
        await self.flush()

    async def _exchange(self, grant: str) -> str | MeshError:
        ask = Exchange(grant=grant)
        try:
            answer = await self._bus.operation(tenant_auth.exchange, ask, timeout_s=ASK_S)
        except MeshError as error:
            return error
        self._keep(grant, answer.context, answer.expires_ms)
        return answer.context

    def _keep(self, grant: str, context: str, expires_ms: int) -> None:
        now = self._bus.server_now_ms()
        renew_ms = now + max(0, expires_ms - now) // 2
        self._contexts[grant] = _Context(context, renew_ms)
        while len(self._contexts) > CACHED_MAX:
            self._contexts.popitem(last=False)
