"""How many steps of a task run at once (swarm.md, 4.3).

``adaptive`` is the only strategy that learns. It begins with min(parallelism, 4), takes one more
after each window of as many results without cause for complaint, and halves when the failure share
in a window exceeds the task's threshold or an agent answers that it is busy. Every change is an
event with its reason.
"""

from swarm_coordinator.core.events import Event, WidthChanged
from swarm_coordinator.core.limits import RUNNING_MAX, WIDTH_FIRST
from swarm_coordinator.core.state import SwarmState, TaskState

__all__ = ["first_width", "next_width"]


def first_width(task: TaskState) -> int:
    """0 = slots alone bound it (``parallel``, ``balanced``)."""
    if task.spec.strategy == "sequential":
        return 1
    if task.spec.strategy == "adaptive":
        return max(1, min(task.spec.parallelism, WIDTH_FIRST))
    return 0


def next_width(state: SwarmState, task: TaskState, now_ms: int) -> list[Event]:
    """A change that the results of the window call for."""
    if task.spec.strategy != "adaptive" or not task.width:
        return []
    window, width = task.window, task.width
    seen = window.done + window.failed
    most = task.spec.execution.failure_threshold
    if window.busy:
        return _changed(task, max(1, width // 2), "an agent was busy", now_ms)
    if seen < width:
        return []
    share = window.failed / seen
    if share > most:
        why = f"{share:.0%} of {seen} results failed"
        return _changed(task, max(1, width // 2), why, now_ms)
    slots = sum(
        agent.slots
        for name in task.team
        if (agent := state.agents.get(name)) is not None and agent.status == "active"
    )
    if width >= min(RUNNING_MAX, max(1, slots)):
        return []
    return _changed(task, width + 1, f"{seen} results, {share:.0%} failed", now_ms)


def _changed(task: TaskState, width: int, reason: str, now_ms: int) -> list[Event]:
    if width == task.width:
        return []
    return [WidthChanged(at=now_ms, task=task.id, width=width, reason=reason)]
