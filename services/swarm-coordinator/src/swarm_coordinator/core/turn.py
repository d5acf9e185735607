"""One turn of an owner: what was decided is folded, with everything that follows from it.

The only place where decisions and the fold meet; still pure (time and seed come in).
"""

from collections.abc import Iterable

from swarm_coordinator.core.decide import advance, schedule, tick
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.evolve import evolve
from swarm_coordinator.core.state import SwarmState

__all__ = ["begin", "take"]


def take(state: SwarmState, events: Iterable[Event], now_ms: int, seed: int) -> list[Event]:
    """Fold ``events`` into ``state``, then their consequences, until nothing follows.

    Returns:
        All of them in order: what one append of the log shall hold.
    """
    taken = list(events)
    for event in taken:
        evolve(state, event)
    while more := _next(state, now_ms, seed):
        for event in more:
            evolve(state, event)
        taken.extend(more)
    return taken


def _next(state: SwarmState, now_ms: int, seed: int) -> list[Event]:
    """What follows from what has happened, then what is due, then what can be sent."""
    return (
        advance(state, now_ms, seed) or tick(state, now_ms, seed) or schedule(state, now_ms, seed)
    )


def begin(events: Iterable[Event]) -> SwarmState:
    """The state after the first events of a log."""
    state: SwarmState | None = None
    for event in events:
        state = evolve(state, event)
    if state is None:
        raise ValueError("a log has a first event")
    return state
