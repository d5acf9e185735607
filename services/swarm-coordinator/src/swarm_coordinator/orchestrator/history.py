"""The log of a swarm, read beside its owner: what it says of one task."""

from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.core.events import Snapshot, decode_batch
from swarm_coordinator.handlers.task_log import History, Reader
from swarm_coordinator.orchestrator.parts import Parts
from swarm_coordinator.store.log import SwarmLog
from swarm_coordinator.store.values import Values

__all__ = ["history_in", "log_of"]


def log_of(parts: Parts, tenant: str, swarm: str) -> tuple[SwarmLog, Values]:
    """The log of a swarm, nothing of it read yet, and the tenant's large values."""
    config = parts.config
    values = Values(parts.bus, tenant, replicas=config.swarm.replicas)
    most = config.limits.log_message_bytes
    return SwarmLog(parts.bus, tenant, swarm, values, message_bytes=most), values


async def history_in(log: SwarmLog, task: str) -> History:
    """What a log says of a task; it is read from its beginning, which costs what a takeover costs.

    Args:
        log: nothing of it read yet.
        task: id.

    Raises:
        MeshError: it cannot be read.
    """
    reader = Reader(task)
    mark = task.encode()
    async for entry in log.replay():
        if entry.kind == "snapshot" or mark not in entry.body:
            continue  # most batches are about other tasks: not worth decoding
        try:
            found = decode_batch(entry.body)
        except ValueError as error:
            raise MeshError(
                ErrorKind.INTERNAL,
                "a swarm's log cannot be read",
                internal=f"sequence {entry.sequence}: {error}",
            ) from error
        if not isinstance(found, Snapshot):
            reader.take(found)
    return reader.history
