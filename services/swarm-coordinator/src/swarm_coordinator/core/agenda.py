"""What is to be done next, as queues and timers: derived from the state, never stored.

It knows ids only. Entries go stale and are dropped when they are met: whoever takes one asks the
state whether it still holds. What it holds is in step with the state after each fold, and
``schedule_queues.rebuild`` makes it anew after a restore.
"""

from collections import deque
from heapq import heapify, heappop, heappush

__all__ = ["CLASSES", "Agenda", "Entry", "Lane", "Timer"]

CLASSES = 4
"""Classes of priority."""

TIMERS_MIN = 4_096
"""Timers below which stale ones are not looked for."""

Entry = tuple[int, int, str, str]
"""A ready step in a queue: ready since (ms), number, task, step."""

Timer = tuple[int, int, str, str, str]
"""Due (ms), number, kind, and whose: see ``schedule_timers``."""


class Lane:
    """Ready steps that the same agents may do, by class of priority, each oldest first."""

    __slots__ = ("agents", "classes", "names")

    def __init__(self, names: tuple[str, ...]) -> None:
        """Of these agents, in the order in which they are preferred."""
        self.names = names
        self.agents = frozenset(names)
        self.classes: tuple[deque[Entry], ...] = tuple(deque[Entry]() for _ in range(CLASSES))


class Agenda:
    """Derived part of a swarm's state.

    Attributes:
        open: steps that have not ended.
        running: steps that are assigned.
        dirty: tasks whose consequences have not been drawn, with the phases to look at.
        lanes: ready steps by the agents that may do them.
        admitted: by task: steps in queues.
        held: by task: ready steps that its width or budget keeps out of the queues.
        unplaced: ready steps that nobody living may do → when waiting for somebody ends.
        timers: heap.
        blocked: waiting steps → how many others they still wait for.
        followers: steps → steps that wait for them.
        dependents: tasks → tasks that wait for them.
        parked: tasks with a phase for whose steps there is no room, and how many those are.
        live: tasks that have not ended.
        ended: tasks that have, oldest first, and how many steps each has.
        ended_steps: of all of those.
        ended_bytes: of the outputs and results that ended tasks hold, those that hold any.
        held_bytes: of all of those.
        stranded: steps that cannot go on, because of those before them.
        groups: of voting phases: the steps of each group.
        voted: of voting phases: groups in which something has changed.
        active: agents that are active, in their order.
        draining: agents that take nothing new.
        straggling: phases of adaptive tasks → when to look for stragglers next.
    """

    def __init__(self) -> None:
        """Of an empty swarm."""
        self.open = 0
        self.running = 0
        self.dirty: dict[str, dict[str, None]] = {}
        self.lanes: dict[tuple[str, ...], Lane] = {}
        self.admitted: dict[str, int] = {}
        self.held: dict[str, dict[str, None]] = {}
        self.unplaced: dict[tuple[str, str], int] = {}
        self.timers: list[Timer] = []
        self.timers_max = TIMERS_MIN
        self.blocked: dict[tuple[str, str], int] = {}
        self.followers: dict[tuple[str, str], list[str]] = {}
        self.dependents: dict[str, list[str]] = {}
        self.parked: dict[str, int] = {}
        self.stranded: dict[str, dict[str, None]] = {}
        self.groups: dict[tuple[str, str], dict[int, list[str]]] = {}
        self.voted: dict[tuple[str, str], dict[int, None]] = {}
        self.active: list[str] = []
        self.draining: list[str] = []
        self.live: dict[str, None] = {}
        self.ended: dict[str, int] = {}
        self.ended_steps = 0
        self.ended_bytes: dict[str, int] = {}
        self.held_bytes = 0
        self.straggling: dict[tuple[str, str], int] = {}
        self._number = 0

    def number(self) -> int:
        """Keeps equals in the order in which they came."""
        self._number += 1
        return self._number

    def touch(self, task: str, phase: str = "") -> None:
        """Consequences of a task are to be drawn."""
        phases = self.dirty.setdefault(task, {})
        if phase:
            phases[phase] = None

    def at(self, due_ms: int, kind: str, whose: str, which: str = "") -> None:
        """Set a timer."""
        heappush(self.timers, (due_ms, self.number(), kind, whose, which))

    def drop_timer(self) -> None:
        """Drop the first timer."""
        heappop(self.timers)

    def keep_timers(self, kept: list[Timer]) -> None:
        """Drop all timers but these."""
        heapify(kept)
        self.timers = kept
        self.timers_max = max(TIMERS_MIN, 2 * len(kept))

    def end(self, task: str, steps: int, held_bytes: int) -> None:
        """A task has ended."""
        self.ended[task] = steps
        self.ended_steps += steps
        self.ended_bytes[task] = held_bytes
        self.held_bytes += held_bytes

    def drop_ended(self, task: str) -> None:
        """An ended task leaves the state."""
        self.ended_steps -= self.ended.pop(task, 0)
        self.held_bytes -= self.ended_bytes.pop(task, 0)

    def forget(self, task: str) -> None:
        """Nothing of a task is to be done any more."""
        for by_task in (self.dirty, self.admitted, self.held, self.parked, self.stranded):
            by_task.pop(task, None)
        self.live.pop(task, None)
        for by_phase in (self.groups, self.voted, self.straggling):
            for key in [key for key in by_phase if key[0] == task]:
                del by_phase[key]
