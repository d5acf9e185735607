"""How a service gets storage for a tenant: it asks the registry, which alone makes streams.

Whoever may make a stream may let it copy any subject and read any other stream, so this right
is the registry's. A registry that is away costs only tenants who come for the first time: what is
there already is used.
"""

import asyncio
import logging

from mcp_proto.buckets import (
    swarm_memory,
    swarm_objects,
    tenant_events,
    tenant_kv,
    tenant_objects,
)
from mcp_proto.contracts import provision
from mcp_proto.contracts.provision import Ensure, Kind
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import ApiError
from mesh_chassis.stream import stream_exists

__all__ = ["ensure", "stream_name"]

ANSWER_S = 12.0
"""A leader's election (4.6-6.1 s) and the making of a stream fit."""
LOOK_S = 2.0
WAIT_S = 5.0
"""How long a registry that is being started again is waited for."""
RETRY_S = 0.25

_AWAY = frozenset(
    {ErrorKind.NO_RUNNER, ErrorKind.DEADLINE, ErrorKind.LOST, ErrorKind.OVERLOADED, ErrorKind.BUS}
)
_log = logging.getLogger(__name__)


async def ensure(
    bus: Bus,
    kind: Kind,
    tenant: str,
    *,
    bytes_max: int = -1,
    replicas: int = 1,
    age_s: float = 0.0,
) -> int:
    """Have the storage of a tenant made or brought up to date.

    Args:
        bus: connected, with the right to ask.
        kind: what it is for; see ``contracts.provision``.
        tenant: whose.
        bytes_max: its size; -1 = none.
        replicas: copies on a cluster.
        age_s: ``events``: how long one is kept, in seconds; 0 = until its room is needed.

    Returns:
        Its size in bytes as the registry set it; -1 = none, or the registry is away and an older
        one is used as it is.

    Raises:
        MeshError: ``params`` for a tenant that has no storage, ``overloaded`` when the broker
            has no room, ``bus`` when there is none yet and the registry does not answer; never
            executed.
    """
    name = stream_name(kind, tenant)
    wanted = Ensure(kind=kind, tenant=tenant, bytes_max=bytes_max, replicas=replicas, age_s=age_s)
    loop = asyncio.get_running_loop()
    until = loop.time() + WAIT_S
    while True:
        try:
            return (await bus.operation(provision.ensure, wanted, timeout_s=ANSWER_S)).bytes_max
        except MeshError as error:
            error.outcome = Outcome.NOT_EXECUTED  # of the caller's work; a repeat is harmless
            if error.kind not in _AWAY:
                raise
            if await _exists(bus, name):
                _log.warning("%s is used as it is: %s", name, error.message)
                return -1
            if loop.time() + RETRY_S >= until:
                raise _away(error) from error
        await asyncio.sleep(RETRY_S)


async def _exists(bus: Bus, name: str) -> bool:
    try:
        return await stream_exists(bus, name, timeout_s=LOOK_S)
    except (MeshError, ApiError):
        return False


def _away(error: MeshError) -> MeshError:
    if error.kind is ErrorKind.OVERLOADED:
        return error
    return MeshError(
        ErrorKind.BUS,
        "the storage of this tenant cannot be made now; is the registry running?",
        outcome=Outcome.NOT_EXECUTED,
        retry_after_s=WAIT_S,
        internal=error.message,
    )


def stream_name(kind: Kind, tenant: str) -> str:
    """Name of the stream.

    Raises:
        MeshError: ``params``: not a tenant id.
    """
    try:
        match kind:
            case "kv":
                return tenant_kv(tenant).stream
            case "objects":
                return f"OBJ_{tenant_objects(tenant)}"
            case "events":
                return tenant_events(tenant)
            case "memory":
                return swarm_memory(tenant).stream
            case "swarm":
                return f"OBJ_{swarm_objects(tenant)}"
    except ValueError:
        raise MeshError(ErrorKind.PARAMS, "this tenant has no storage") from None
