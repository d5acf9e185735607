"""A swarm whose log is gone: nobody can carry its tasks on, and whoever waits for them is told.

The one way in which a task of a swarm is ``failed`` as an MCP task. It takes a broker that has lost
the log and kept the records, or somebody who purged the stream.
"""

import logging

import msgspec

from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from swarm_coordinator.core.records import SwarmRecord
from swarm_coordinator.orchestrator.parts import Parts

__all__ = ["LOST_REASON", "bury", "lost"]

LOST_REASON = "swarm_lost"
"""``data.reason`` of what is answered about such a swarm."""
_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


def lost(swarm: str) -> MeshError:
    """What a call meets that means a swarm without a log."""
    return MeshError(
        ErrorKind.LOST,
        "the log of the swarm is lost: it has ended, and its open tasks have failed",
        data={"reason": LOST_REASON, "swarmId": swarm},
        outcome=Outcome.UNKNOWN,
    )


async def bury(parts: Parts, record: SwarmRecord) -> None:
    """End a swarm without its log; the caller holds its lease.

    Args:
        parts: of this replica.
        record: of the swarm.

    Raises:
        MeshError: the records cannot be read or written; the next who asks tries again.
    """
    if record.status == "destroyed":
        return
    records = parts.records()
    now = parts.bus.server_now_ms()
    open_tasks = await records.open_of(record.tenant, record.principal, record.swarm)
    for task in open_tasks:
        await records.write(_faulted(task, now))
    ended = msgspec.structs.replace(record, status="destroyed", agents=0, tasks=0, owner="")
    await parts.swarms.put(ended)
    _log.error("swarm %s is lost: its log is gone", record.swarm, extra={"tasks": len(open_tasks)})


def _faulted(task: TaskRecord, now_ms: int) -> TaskRecord:
    error = lost(task.upstream)
    error.data["taskId"] = task.id
    return msgspec.structs.replace(
        task,
        status="failed",
        message=error.message,
        updated_ms=max(now_ms, task.updated_ms),
        progress=None,
        total=None,
        held=None,
        error=msgspec.Raw(_encode(error.to_object())),
    )
