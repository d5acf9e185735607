"""One call with an idempotency key at a time, whichever replica it reaches.

Two that come together would both find that nothing was made under the key yet. A lease under the
digest of the key lets them in one after the other; whoever was frozen inside is told so by
``Lease.held`` and looks again.
"""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncGenerator

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.clock import monotonic
from mesh_chassis.lease import Lease
from swarm_coordinator.store.leases import Leases

__all__ = ["alone"]

WAIT_S = 3.0
"""Longest wait for the others: a swarm is made in some milliseconds."""
LOOK_S = 0.02


@contextlib.asynccontextmanager
async def alone(leases: Leases, tenant: str, principal: str, key: str) -> AsyncGenerator[Lease]:
    """Hold the right to act under this key.

    Raises:
        MeshError: ``overloaded``, not executed, when others hold it all the time.
    """
    digest = hashlib.sha256(f"{principal}\0{key}".encode()).hexdigest()[:40]
    lease = leases.contender(tenant, f"init-{digest}")
    until = monotonic() + WAIT_S
    while not await lease.acquire():
        if monotonic() >= until:
            raise MeshError(
                ErrorKind.OVERLOADED,
                "another call with this idempotency key is under way",
                outcome=Outcome.NOT_EXECUTED,
                retry_after_s=1.0,
            )
        await asyncio.sleep(LOOK_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
    try:
        yield lease
    finally:
        await lease.release()
