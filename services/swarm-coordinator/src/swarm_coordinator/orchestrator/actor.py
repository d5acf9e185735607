"""The actor of a swarm: what is decided is folded at once, stored in batches, and only then told.

The state in memory is ahead of the log by what is on its way. When an append is refused, or nobody
knows what became of it, that state is worth nothing: the actor ends, and whoever owns the swarm
next reads the log.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.metrics import Metrics
from mesh_chassis.tasks import Tasks
from swarm_coordinator.core import decide, turn
from swarm_coordinator.core.effects import Effect, effects_of
from swarm_coordinator.core.events import Event, encode_snapshot
from swarm_coordinator.core.evolve import evolve, snapshot
from swarm_coordinator.core.state import SwarmState
from swarm_coordinator.orchestrator.journal import Commit, Journal, taken_over
from swarm_coordinator.store.log import SwarmLog

__all__ = ["Actor"]

SEED_BITS = 62
TICK_MIN_S = 0.02
"""Something that stays due must not turn the loop into a busy one."""
TICK_MAX_S = 3600.0
_log = logging.getLogger(__name__)

Told = Callable[[Sequence[Event], Sequence[Effect]], None]


class Actor:
    """One swarm's.

    Args:
        state: folded from ``log``.
        log: at its end.
        clock_ms: Unix time.
        snapshot_events: events between snapshots.
        message_bytes: most bytes of one message of the log.
        metrics: counts.
        tasks: parent of what runs.
        fresh: events since the last snapshot.
    """

    def __init__(
        self,
        state: SwarmState,
        log: SwarmLog,
        *,
        clock_ms: Callable[[], int],
        snapshot_events: int,
        message_bytes: int,
        metrics: Metrics,
        tasks: Tasks,
        fresh: int = 0,
    ) -> None:
        self.state = state
        self.log = log
        self.clock_ms = clock_ms
        self.over = asyncio.Event()
        """Set once nothing is decided here any more."""
        self.on_stored: Told = lambda _events, _effects: None
        """Called with what is in the log now."""
        self._timer: asyncio.TimerHandle | None = None
        self.journal = Journal(
            log,
            snapshot=lambda: encode_snapshot(snapshot(self.state)),
            snapshot_events=snapshot_events,
            message_bytes=message_bytes,
            metrics=metrics,
            tasks=tasks,
        )
        self.journal.note_replayed(fresh)
        self.journal.before_batch = self._settle
        self.journal.on_stored = self._stored

    @staticmethod
    def seed() -> int:
        """Chance for one decision."""
        return random.getrandbits(SEED_BITS)

    def fold(self, events: Sequence[Event]) -> None:
        """Take a decision; it is stored with the next batch.

        Raises:
            MeshError: ``lost`` when this is no owner any more, ``overloaded`` when the log is far
                behind; nothing was taken.
        """
        if self.journal.ended is not None:
            raise taken_over()
        if self.journal.full:
            raise MeshError(
                ErrorKind.OVERLOADED, "the log of the swarm is behind", retry_after_s=0.5
            )
        taken = tuple(events)
        if not taken:
            return
        try:
            for event in taken:
                evolve(self.state, event)
            effects = effects_of(self.state, taken)
        except BaseException:
            # Half a decision in memory: only the log still knows what holds.
            self.give_up(_unfolded())
            raise
        self.journal.put(taken, effects)

    async def commit(self, events: Sequence[Event]) -> None:
        """``fold``, then wait until it is stored.

        Raises:
            MeshError: as ``fold``; ``bus`` or ``deadline`` when it is not known.
        """
        self.fold(events)
        await self.journal.stored()

    def verify(self) -> None:
        """Find out by an empty append whether the log still takes what comes from here."""
        if self.journal.ended is None:
            self.journal.put((), [])

    async def run(self) -> None:
        """Store and decide until this is no owner any more."""
        try:
            self.journal.wake()
            error = await self.journal.run()
            _log.info("swarm %s is no longer owned here: %s", self.state.swarm, error.message)
        except Exception:  # noqa: BLE001 - the log still holds; another owner goes on from it
            _log.exception("the owner of %s failed", self.state.swarm)
        finally:
            self._end()

    def close(self) -> None:
        """Store what was decided, and decide nothing more; ``over`` is set when it is stored."""
        self.journal.close()

    def give_up(self, error: MeshError) -> None:
        """End at once; what is not stored is refused."""
        self.journal.abort(error)
        self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.over.set()

    def _settle(self) -> None:
        """What follows from the state as it is, and from the time."""
        now = self.clock_ms()
        seed = self.seed()
        try:
            taken = tuple(turn.take(self.state, (), now, seed))
            if taken:
                self.journal.put(taken, effects_of(self.state, taken))
            self._rearm(decide.next_due(self.state), now)
        except MeshError:
            raise
        except Exception as error:
            _log.exception("the owner of %s cannot decide", self.state.swarm)
            raise _unfolded() from error

    def _rearm(self, due: int | None, now: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is None or self.over.is_set():
            return
        wait_s = min(TICK_MAX_S, max(TICK_MIN_S, (due - now) / 1000))
        self._timer = asyncio.get_running_loop().call_later(wait_s, self.journal.wake)

    def _stored(self, commits: Sequence[Commit]) -> None:
        events = [event for commit in commits for event in commit.events]
        effects = [effect for commit in commits for effect in commit.effects]
        self.on_stored(events, effects)


def _unfolded() -> MeshError:
    return MeshError(ErrorKind.INTERNAL, "a decision could not be folded")
