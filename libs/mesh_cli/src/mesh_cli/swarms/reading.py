"""Swarms as their tools tell them: what the views need of the answers, and nothing of the rest.

Asked through a gateway like any client, so a person sees here what a client may see.
"""

from datetime import datetime
from typing import Any, TypeVar

import msgspec

from mesh_cli.failure import Exit, Failure
from mesh_cli.session import Request

__all__ = [
    "Agent",
    "Listed",
    "Phase",
    "Progress",
    "Status",
    "Swarms",
    "Task",
    "TaskStatus",
    "Tasks",
    "read_status",
    "read_swarms",
    "read_task",
    "read_tasks",
    "seconds_between",
]


class _Told(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Part of an answer; what it does not name is left out."""


class Listed(_Told, frozen=True, kw_only=True):
    """A row of ``swarm_list``."""

    swarm_id: str
    name: str = ""
    topology: str = ""
    status: str = ""
    default: bool = False
    agent_count: int = 0
    open_tasks: int = 0
    created_at: str = ""
    owner: str | None = None


class Swarms(_Told, frozen=True, kw_only=True):
    """``swarm_list``."""

    swarms: tuple[Listed, ...] = ()


class Stats(_Told, frozen=True, kw_only=True):
    """What an agent has done."""

    completed: int | None = None
    failed: int | None = None


class Agent(_Told, frozen=True, kw_only=True):
    """An agent in ``swarm_status``; the second half only where it was asked for."""

    id: str
    type: str
    status: str
    name: str = ""
    health: float | None = None
    current_task: str | None = None
    parent: str | None = None
    runtime: str | None = None
    load: int | None = None
    slots: int | None = None
    stats: Stats = Stats()

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or self.type


class Metrics(_Told, frozen=True, kw_only=True):
    """Figures of a swarm; None = not measured."""

    tasks_completed: int = 0
    avg_completion_time: float | None = None
    success_rate: float | None = None
    in_flight: int = 0
    queued: int = 0


class Links(_Told, frozen=True, kw_only=True):
    """Who may send to whom; ``messages`` by ``from>to``."""

    count: int = 0
    adjacency: dict[str, tuple[str, ...]] = {}
    messages: dict[str, int] = {}


class Status(_Told, frozen=True, kw_only=True):
    """``swarm_status``."""

    swarm_id: str
    name: str = ""
    topology: str = "mesh"
    status: str = ""
    agents: tuple[Agent, ...] = ()
    metrics: Metrics = Metrics()
    links: Links = Links()
    task_count: int = 0
    pending_tasks: int = 0
    completed_tasks: int = 0
    owner: str | None = None
    sequence: int = 0
    created_at: str = ""

    @property
    def messages(self) -> int:
        """Messages over all links."""
        return sum(self.links.messages.values())


class Progress(_Told, frozen=True, kw_only=True):
    """Steps; ``total`` None = not known yet."""

    done: int = 0
    total: int | None = None

    def __str__(self) -> str:
        return f"{self.done}/{'?' if self.total is None else self.total}"


class Task(_Told, frozen=True, kw_only=True):
    """A row of ``task_list``."""

    task_id: str
    status: str
    description: str = ""
    priority: str = ""
    progress: Progress = Progress()
    message: str = ""
    created_at: str = ""
    updated_at: str = ""

    @property
    def doing(self) -> str:
        """What its agents told last, or why it ended; without what the other columns say."""
        head, _, told = self.message.partition("; ")
        if told:
            return told
        return "" if head.startswith(f"{self.status}") else head


class Tasks(_Told, frozen=True, kw_only=True):
    """``task_list``."""

    tasks: tuple[Task, ...] = ()


class Phase(_Told, frozen=True, kw_only=True):
    """A phase in ``task_status``."""

    name: str
    status: str
    dependencies: tuple[str, ...] = ()
    done: int = 0
    failed: int = 0
    total: int | None = None
    started_at: str | None = None
    ended_at: str | None = None


class TaskStatus(_Told, frozen=True, kw_only=True):
    """``task_status``."""

    task_id: str
    swarm_id: str = ""
    status: str = ""
    message: str | None = None
    phases: tuple[Phase, ...] = ()
    created_at: str = ""
    updated_at: str = ""


class _Result(_Told, frozen=True, kw_only=True):
    structured_content: msgspec.Raw = msgspec.Raw(b"")
    is_error: bool = False


class _Refusal(_Told, frozen=True, kw_only=True):
    message: str = ""
    reason: str = ""


class _Refused(_Told, frozen=True, kw_only=True):
    error: _Refusal = _Refusal()


T = TypeVar("T", bound=msgspec.Struct)


async def read_swarms(request: Request, *, destroyed: bool = False) -> Swarms:
    """The caller's swarms, newest first.

    Raises:
        Failure: the mesh refused, or is not there.
    """
    return await _ask(request, "swarm_list", Swarms, includeDestroyed=destroyed)


async def read_status(request: Request, swarm: str) -> Status:
    """A swarm with what each agent has done; "" = the caller's default swarm.

    Raises:
        Failure: there is no such swarm, or the mesh refused.
    """
    return await _ask(request, "swarm_status", Status, verbose=True, **_of(swarm))


async def read_tasks(request: Request, swarm: str, *, limit: int = 20) -> Tasks:
    """Tasks of a swarm, newest first.

    Raises:
        Failure: as ``read_status``.
    """
    return await _ask(request, "task_list", Tasks, limit=limit, **_of(swarm))


async def read_task(request: Request, swarm: str, task: str) -> TaskStatus:
    """How far a task is.

    Raises:
        Failure: there is no such task, or the mesh refused.
    """
    return await _ask(request, "task_status", TaskStatus, taskId=task, **_of(swarm))


def _of(swarm: str) -> dict[str, str]:
    return {"swarmId": swarm} if swarm else {}


async def _ask(request: Request, tool: str, shape: type[T], **arguments: Any) -> T:
    answer = await request("tools/call", {"name": tool, "arguments": arguments})
    try:
        result = msgspec.json.decode(answer, type=_Result)
        body = bytes(result.structured_content)
        if result.is_error:
            refused = msgspec.json.decode(body, type=_Refused).error
            raise Failure(refused.message or f"{tool} failed", code=Exit.REFUSED)
        return msgspec.json.decode(body, type=shape)
    except msgspec.DecodeError as error:
        raise Failure(f"{tool} answered something else: {error}", code=Exit.REFUSED) from None


def seconds_between(begin: str | None, end: str | None) -> float | None:
    """Seconds between two times as they are told; None where one is not known."""
    try:
        if begin and end:
            return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
    except (ValueError, TypeError):
        pass
    return None
