"""Resources of swarms: what they remember, what they have to do, what became of a task.

``swarm://default/…`` means the caller's default swarm, so that both can be listed without an id.
"""

import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from mcp_proto.contracts.watching import Verdict
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.core.state import StepState, SwarmState, TaskState
from swarm_coordinator.handlers.answers import iso, iso_or_none
from swarm_coordinator.handlers.ports import Owner
from swarm_coordinator.handlers.task_log import History
from swarm_coordinator.handlers.task_views import failures_of, progress_of, votes_of

__all__ = [
    "DEFAULT",
    "PERMISSION",
    "RESOURCES",
    "TEMPLATES",
    "memory_uris",
    "read",
    "swarm_of_uri",
    "task_uris",
    "unknown",
    "watched",
]

PERMISSION = ""
"""What a caller needs to read or watch one; "" = as for a tool without one."""
DEFAULT = "default"
MEMORY_KEYS_MAX = 1_000
STEPS_MAX = 2_000
_URI = re.compile(
    r"swarm://(?P<swarm>[A-Za-z0-9_]{1,64})/(?:(?P<memory>memory)|tasks(?:/(?P<task>[^/]+)/log)?)"
)
_MIME = "application/json"
_encode = msgspec.json.Encoder().encode

RESOURCES: tuple[dict[str, object], ...] = (
    {
        "uri": f"swarm://{DEFAULT}/memory",
        "name": "memory_bank",
        "title": "Memory of your default swarm",
        "description": "What your default swarm remembers: namespaces and keys. memory_retrieve "
        "reads a value.",
        "mimeType": _MIME,
    },
    {
        "uri": f"swarm://{DEFAULT}/tasks",
        "name": "task_queue",
        "title": "Tasks of your default swarm",
        "description": "Tasks of your default swarm that have not ended, and how far they are.",
        "mimeType": _MIME,
    },
)
TEMPLATES: tuple[dict[str, object], ...] = (
    {
        "uriTemplate": "swarm://{swarmId}/memory",
        "name": "memory_bank",
        "title": "Memory of a swarm",
        "description": "What a swarm remembers: namespaces and keys. Subscribe to hear of changes.",
        "mimeType": _MIME,
    },
    {
        "uriTemplate": "swarm://{swarmId}/tasks",
        "name": "task_queue",
        "title": "Tasks of a swarm",
        "description": "Tasks that have not ended, and how far they are. Subscribe to hear of "
        "changes.",
        "mimeType": _MIME,
    },
    {
        "uriTemplate": "swarm://{swarmId}/tasks/{taskId}/log",
        "name": "task_log",
        "title": "Log of a task",
        "description": "Every step of a task (who did it, when, for how long, how it ended), and "
        "the entries of the swarm's log about it. Subscribe to hear of changes.",
        "mimeType": _MIME,
    },
)


def unknown(uri: str) -> MeshError:
    """What a reader meets whose URI is nothing of his."""
    return MeshError(ErrorKind.NOT_FOUND, "unknown resource", data={"uri": uri[:256]})


def swarm_of_uri(uri: str) -> str:
    """Id of the swarm whose resource a URI is; "" = the caller's default.

    Raises:
        MeshError: ``not_found`` with ``data.uri``: it is none of ours.
    """
    swarm = _parsed(uri)["swarm"]
    return "" if swarm == DEFAULT else swarm


def memory_uris(swarm: str) -> tuple[str, ...]:
    """Resources that change with the memory of a swarm."""
    return (f"swarm://{swarm}/memory", f"swarm://{DEFAULT}/memory")


def task_uris(swarm: str, task: str) -> tuple[str, ...]:
    """Resources that change with a task."""
    return (
        f"swarm://{swarm}/tasks/{task}/log",
        f"swarm://{swarm}/tasks",
        f"swarm://{DEFAULT}/tasks",
    )


async def watched(uris: Sequence[str], exists: Callable[[str], Awaitable[bool]]) -> Verdict:
    """What becomes of a wish to hear of changes: owners tell of all of them anyway.

    A gateway asks for all its clients of a tenant at once, so whose a swarm is is not asked here:
    its id cannot be guessed, and reading checks it.

    Args:
        uris: as they were asked for.
        exists: whether the tenant has a swarm.
    """
    refused: dict[str, str] = {}
    for uri in uris:
        try:
            swarm = swarm_of_uri(uri)
        except MeshError as error:
            refused[uri] = error.message
            continue
        if swarm and not await exists(swarm):
            refused[uri] = "unknown resource"
    return Verdict(refused=refused)


async def read(owner: Owner, uri: str) -> bytes:
    """A complete ``resources/read`` result.

    Raises:
        MeshError: ``not_found`` with ``data.uri``.
    """
    parts = _parsed(uri)
    if parts["memory"]:
        content = await _memory(owner)
    elif parts["task"]:
        task = owner.state.tasks.get(parts["task"])
        if task is None:
            raise unknown(uri)
        content = _log(owner.state, task, await owner.history(task.id))
    else:
        content = _queue(owner.state)
    body = {"uri": uri, "mimeType": _MIME, "text": _encode(content).decode()}
    return b'%b"contents":[%b],"ttlMs":0,"cacheScope":"private"}' % (COMPLETE_HEAD, _encode(body))


def _parsed(uri: str) -> dict[str, str]:
    found = _URI.fullmatch(uri)
    if found is None:
        raise unknown(uri)
    return {key: value or "" for key, value in found.groupdict().items()}


async def _memory(owner: Owner) -> dict[str, object]:
    swarm = owner.state.swarm
    keys = await owner.memory.bank(swarm, MEMORY_KEYS_MAX + 1)
    shown = [{"namespace": namespace, "key": key} for namespace, key in keys[:MEMORY_KEYS_MAX]]
    return {
        "swarmId": swarm,
        "keys": shown,
        "count": len(shown),
        "more": len(keys) > MEMORY_KEYS_MAX,
    }


def _queue(state: SwarmState) -> dict[str, object]:
    tasks = [_entry(task) for task in state.tasks.values() if not task.ended]
    return {"swarmId": state.swarm, "tasks": tasks, "count": len(tasks)}


def _entry(task: TaskState) -> dict[str, object]:
    return {
        "taskId": task.id,
        "description": task.spec.description[:200],
        "status": task.status,
        "priority": task.spec.priority,
        "progress": progress_of(task),
        "createdAt": iso(task.created_ms),
    }


def _log(state: SwarmState, task: TaskState, history: History) -> dict[str, object]:
    steps = list(task.steps.values())
    return {
        "swarmId": state.swarm,
        "taskId": task.id,
        "status": task.status,
        "message": task.message or None,
        "createdAt": iso(task.created_ms),
        "startedAt": iso_or_none(task.started_ms),
        "endedAt": iso_or_none(task.ended_ms),
        "steps": [_step(step) for step in steps[:STEPS_MAX]],
        "stepsLeftOut": max(0, len(steps) - STEPS_MAX),
        "failures": failures_of(task),
        "votes": votes_of(task),
        "entries": history.entries,
        "entriesLeftOut": history.left_out,
        "complete": history.complete,
    }


def _step(step: StepState) -> dict[str, object]:
    running = step.runs[-1] if step.runs else None
    return {
        "step": step.id,
        "phase": step.phase,
        "kind": step.kind,
        "status": step.status,
        "agentId": (running.agent if running is not None else step.agent) or None,
        "attempts": step.attempt,
        "losses": step.losses,
        "sentAt": iso_or_none(running.sent_ms) if running is not None else None,
        "endedAt": iso_or_none(step.ended_ms),
        "wallMs": step.wall_ms,
        "error": step.error,
        "reason": step.reason or None,
        "artifacts": step.artifacts,
    }
