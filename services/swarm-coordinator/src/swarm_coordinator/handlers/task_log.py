"""What the log of a swarm says of one task, event by event, in the words that go outward."""

from collections import deque
from collections.abc import Sequence

import msgspec

from swarm_coordinator.core.events import Event, TaskSubmitted

__all__ = ["ENTRIES_MAX", "History", "Reader", "Word", "transition"]

ENTRIES_MAX = 1_000
"""Entries of one answer; older ones are left out."""
_WORDS = (
    "task", "phase", "step", "steps", "agent", "item", "items", "attempt", "status", "reason",
    "host", "owner", "epoch", "width", "due_ms", "until_ms", "to",
)  # fmt: skip
_ITEMS_MAX = 20
Word = str | int | list[str]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of a task, oldest first.

    Attributes:
        entries: as ``transition`` says them.
        left_out: older ones that were found and are not among them.
        complete: the task's submission was found: nothing before it can be missing. A log is
            shortened behind its snapshots.
    """

    entries: tuple[dict[str, Word], ...]
    left_out: int
    complete: bool


def transition(event: Event) -> dict[str, Word]:
    """An event without its values: ``{"e": tag, "at": ms, …}`` with ids and words."""
    said: dict[str, Word] = {"e": str(event.__struct_config__.tag), "at": event.at}
    for name in _WORDS:
        value = getattr(event, name, None)
        if isinstance(value, str | int):
            if value:
                said[name] = value
        elif isinstance(value, tuple):
            said[name] = [one if isinstance(one, str) else one.step for one in value[:_ITEMS_MAX]]
    return said


class Reader:
    """Picks what is about one task out of batches of events.

    Args:
        task: its id.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._found: deque[dict[str, Word]] = deque(maxlen=ENTRIES_MAX)
        self._count = 0
        self._complete = False

    def take(self, events: Sequence[Event]) -> None:
        """A batch of the log, in its order."""
        for event in events:
            if not self._is_about(event):
                continue
            self._complete = self._complete or isinstance(event, TaskSubmitted)
            self._found.append(transition(event))
            self._count += 1

    @property
    def history(self) -> History:
        """What was found."""
        return History(
            entries=tuple(self._found),
            left_out=self._count - len(self._found),
            complete=self._complete,
        )

    def _is_about(self, event: Event) -> bool:
        if getattr(event, "task", "") == self._task:
            return True
        items: object = getattr(event, "items", ())
        head = f"{self._task}."
        return isinstance(items, tuple) and any(
            isinstance(one, str) and one.startswith(head) for one in items
        )
