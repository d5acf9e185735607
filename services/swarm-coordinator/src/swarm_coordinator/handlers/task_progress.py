"""How far a task is while it runs: steps that have ended, and what agents tell of those that run.

What agents tell is nobody's decision, so it is in no log: the owner keeps the newest report of each
attempt in memory, and a new owner begins without.
"""

import asyncio
from collections.abc import Callable, Iterator

import msgspec

from mcp_proto.contracts.swarm_replicas import TaskReached
from swarm_coordinator.core.state import Run, StepState, SwarmState, TaskState
from swarm_coordinator.handlers.answers import iso, iso_or_none
from swarm_coordinator.handlers.asking import Asks, asked_of
from swarm_coordinator.handlers.ports import Caller, Owner, Reported
from swarm_coordinator.handlers.task_views import progress_of

__all__ = [
    "MESSAGE_CHARS_MAX",
    "STEPS_SHOWN_MAX",
    "Reports",
    "StepShown",
    "followed",
    "looked_at",
    "reached",
    "saying",
    "steps_running",
]

STEPS_SHOWN_MAX = 100
"""Steps of one answer: a swarm runs up to 1,000 at once."""
MESSAGE_CHARS_MAX = 300
LOOK_S = 0.2
"""How often whoever waits for a task is told how far it is."""

Reports = Callable[[str], Reported | None]
"""The newest report of an attempt, by its item."""


class StepShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A step that runs; ``progress``, ``total`` and ``message`` as its agent told, else null."""

    step: str
    phase: str
    agent_id: str
    attempt: int
    sent_at: str
    progress: float | None
    total: float | None
    message: str | None
    reported_at: str | None


def steps_running(state: SwarmState, task: TaskState, reports: Reports) -> tuple[StepShown, ...]:
    """Attempts of a task that are on their way, at most ``STEPS_SHOWN_MAX``."""
    shown: list[StepShown] = []
    for step, run in _running(state, task):
        if len(shown) >= STEPS_SHOWN_MAX:
            break
        report = reports(run.item)
        shown.append(
            StepShown(
                step=step.id,
                phase=step.phase,
                agent_id=run.agent,
                attempt=run.attempt,
                sent_at=iso(run.sent_ms),
                progress=None if report is None else report.said.progress,
                total=None if report is None else report.said.total,
                message=(report.said.message or None) if report is not None else None,
                reported_at=iso_or_none(0 if report is None else report.at_ms),
            )
        )
    return tuple(shown)


def reached(state: SwarmState, task: TaskState, reports: Reports) -> TaskReached:
    """How far a task is, as one figure; never above what there is to do."""
    return looked_at(state, task, reports)[0]


def looked_at(state: SwarmState, task: TaskState, reports: Reports) -> tuple[TaskReached, int]:
    """``reached``, and when an agent last told of a step that runs (Unix ms; 0 = none did)."""
    progress = progress_of(task)
    told = _told(state, task, reports)
    shares: dict[str, float] = {}
    for step, report in told:
        shares[step.id] = max(shares.get(step.id, 0.0), _share(report))
    now = TaskReached(
        progress=round(progress.done + sum(shares.values()), 4),
        total=None if progress.total is None else float(progress.total),
        message=_saying(task, told),
    )
    return now, max((report.at_ms for _, report in told), default=0)


def saying(state: SwarmState, task: TaskState, reports: Reports) -> str:
    """What a task is doing, or why it ended."""
    return _saying(task, _told(state, task, reports))


async def followed(owner: Owner, caller: Caller, task: TaskState, timeout_s: float) -> TaskState:
    """``Owner.ended`` for a caller that is told meanwhile how far the task is, or can be asked.

    Args:
        owner: of its swarm.
        caller: waits; ``tell`` or ``client`` is set.
        task: the task.
        timeout_s: as ``Owner.ended``.

    Raises:
        Asks: the task asks what the caller's client can be asked.
    """
    waiting = asyncio.ensure_future(owner.ended(task.id, timeout_s))
    tell = caller.tell or _silent
    try:
        while not waiting.done():
            tell(reached(owner.state, task, owner.reported))
            if asked_of(caller, task):
                await owner.recorded(task.id)  # whoever answers finds the swarm by the record
                if asked := asked_of(caller, task):
                    raise Asks(task.id, asked)
            await asyncio.wait((waiting,), timeout=LOOK_S)
        ended = waiting.result()
    finally:
        waiting.cancel()
    tell(reached(owner.state, ended, owner.reported))
    return ended


def _silent(_reached: TaskReached) -> None:
    """A caller that did not ask for progress."""


def _told(state: SwarmState, task: TaskState, reports: Reports) -> list[tuple[StepState, Reported]]:
    """Steps that run and have told something."""
    if task.ended:
        return []
    found = ((step, reports(run.item)) for step, run in _running(state, task))
    return [(step, report) for step, report in found if report is not None]


def _saying(task: TaskState, told: list[tuple[StepState, Reported]]) -> str:
    if task.message:
        return task.message
    if task.ended:
        return f"{task.status}, in part" if task.partial else task.status
    progress = progress_of(task)
    total = "?" if progress.total is None else str(progress.total)
    text = f"{task.status}: {progress.done} of {total} steps"
    if told:
        step, newest = max(told, key=lambda one: one[1].at_ms)
        text += f"; {step.id}: {_said(newest)}"
    return text[:MESSAGE_CHARS_MAX]


def _running(state: SwarmState, task: TaskState) -> Iterator[tuple[StepState, Run]]:
    """Attempts that agents have: at most as many as a swarm runs at once, however long the plan."""
    if not task.running:
        return
    head = f"{task.id}."
    for agent in state.agents.values():
        for item in agent.items:
            if not item.startswith(head):
                continue
            step = task.steps.get(item[len(head) :].rpartition("-")[0])
            run = next((one for one in step.runs if one.item == item), None) if step else None
            if step is not None and run is not None:
                yield step, run


def _share(report: Reported) -> float:
    if not report.said.total or report.said.total <= 0:
        return 0.0
    return min(1.0, max(0.0, report.said.progress / report.said.total))


def _said(report: Reported) -> str:
    said = report.said
    figure = f"{said.progress:g}" if said.total is None else f"{said.progress:g}/{said.total:g}"
    return f"{figure} {said.message}".rstrip()
