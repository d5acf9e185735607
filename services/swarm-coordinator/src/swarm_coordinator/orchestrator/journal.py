"""Group commit: one append in flight; whatever is decided meanwhile is the next batch.

A commit's events stand in one message, so a crash never leaves half of a decision. A snapshot is
encoded at the moment its last batch is taken, when the state in memory is exactly what the log
will say; commits that come while the batch is on its way are not in it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.metrics import Metrics
from mesh_chassis.tasks import Tasks
from swarm_coordinator.core.effects import Effect
from swarm_coordinator.core.events import Event, encode_batch
from swarm_coordinator.store.log import StaleOwner, SwarmLog

__all__ = ["Commit", "Journal", "taken_over"]

SNAPSHOT_GAP_S = 5.0
"""A busy swarm is not stored whole more often than this …"""
SNAPSHOT_SHARE = 4
"""… nor before a quarter of its size was written as events …"""
SNAPSHOT_EVENTS_MAX = 20
"""… unless so many times the usual number of events has come: a fold takes 20 to 50 us each."""
PENDING_MAX = 10_000
"""Commits that wait for the log; above that inputs are refused until it has caught up."""
_log = logging.getLogger(__name__)


class Commit:
    """One decision on its way into the log."""

    __slots__ = ("body", "effects", "events", "stored")

    def __init__(
        self,
        events: tuple[Event, ...],
        effects: list[Effect],
        stored: "asyncio.Future[MeshError | None]",
    ) -> None:
        self.events = events
        self.effects = effects
        self.body = encode_batch(events)[1:-1]
        """Its events as they stand between the brackets of a batch."""
        self.stored = stored


def taken_over() -> MeshError:
    """What a commit meets whose owner is none any more."""
    return MeshError(
        ErrorKind.LOST, "another replica owns the swarm now", outcome=Outcome.NOT_EXECUTED
    )


class Journal:
    """What the owner of one swarm decides, in order.

    Args:
        log: of the swarm.
        snapshot: encodes the state as it is now.
        snapshot_events: events after which it is stored whole.
        message_bytes: most bytes of commits in one message.
        metrics: counts.
        tasks: parent of purges.
    """

    def __init__(
        self,
        log: SwarmLog,
        *,
        snapshot: Callable[[], bytes],
        snapshot_events: int,
        message_bytes: int,
        metrics: Metrics,
        tasks: Tasks,
    ) -> None:
        self._log = log
        self._encode_state = snapshot
        self._snapshot_events = snapshot_events
        self._most = message_bytes
        self._metrics = metrics
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._pending: list[Commit] = []
        self._wake = asyncio.Event()
        self._last: asyncio.Future[MeshError | None] | None = None
        self._since = 0
        self._bytes_since = 0
        self._snapshot_bytes = 0
        self._snapshot_at = self._loop.time()
        self._purging = False
        self._ended: MeshError | None = None
        self._closing = False
        self.handed_over = False
        """Ended in order: everything that was decided is stored, and can still be told."""
        self.before_batch: Callable[[], None] = lambda: None
        """Called before each batch is taken: what follows from the state as it is now."""
        self.on_stored: Callable[[Sequence[Commit]], None] = lambda _commits: None
        """Called with what is stored, in order, before those who wait are told."""

    @property
    def behind(self) -> int:
        """Commits that are not stored yet."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether inputs should wait."""
        return len(self._pending) >= PENDING_MAX

    @property
    def ended(self) -> MeshError | None:
        """Why nothing is stored any more; None = it goes on."""
        return self._ended

    def wake(self) -> None:
        """Have ``before_batch`` called soon, with or without a commit."""
        self._wake.set()

    def put(self, events: tuple[Event, ...], effects: list[Effect]) -> None:
        """Take a decision that is folded into the state already.

        Raises:
            MeshError: why the journal has ended; the state in memory must not be used any more.
        """
        if self._ended is not None:
            raise self._ended
        commit = Commit(events, effects, self._loop.create_future())
        self._pending.append(commit)
        self._last = commit.stored
        self._wake.set()

    async def stored(self) -> None:
        """Wait until everything taken so far is stored.

        Raises:
            MeshError: it is not (``lost``: another replica owns the swarm), or nobody knows.
        """
        last = self._last
        if last is not None:
            # One future for many who wait: a cancelled one must not cancel it for the others.
            error = await asyncio.shield(last)
            if error is not None:
                raise error
        elif self._ended is not None and not self.handed_over:
            raise self._ended

    def note_replayed(self, events: int) -> None:
        """So many events stand behind the last snapshot already."""
        self._since = events

    async def run(self) -> MeshError:
        """Write until it must end; says why it ended."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._settle()
                while self._pending:
                    await self._write(self._pending_batch())
                    self._settle()
                # Whatever woke us meanwhile was seen by the last look.
                self._wake.clear()
                if self._closing:
                    self.handed_over = self._ended is None
                    return self._end(taken_over())
        except StaleOwner:
            self._metrics.add("mesh_swarm_appends_refused")
            return self._end(taken_over())
        except MeshError as error:
            _log.warning("an append failed: %s", error.message)
            return self._end(error)
        finally:
            self._end(taken_over())

    def close(self) -> None:
        """Store what is there, then end ``run``."""
        self._closing = True
        self._wake.set()

    def abort(self, error: MeshError) -> None:
        """End now: what is not stored is refused with ``error``."""
        self._end(error)
        self._closing = True
        self._wake.set()

    def _settle(self) -> None:
        if not self._closing:
            self.before_batch()

    def _pending_batch(self) -> list[Commit]:
        batch, self._pending = self._pending, []
        return batch

    async def _write(self, batch: list[Commit]) -> None:
        self._since += sum(len(commit.events) for commit in batch)
        snapshot = self._encode_state() if self._due() else None
        at = 0
        try:
            while at < len(batch):
                until, body = self._message(batch, at)
                began = self._loop.time()
                await self._log.append(body)
                self._bytes_since += len(body)
                self._metrics.observe("mesh_swarm_append_seconds", self._loop.time() - began)
                self._tell(batch[at:until])
                at = until
        except BaseException:
            self._pending = [*batch[at:], *self._pending]
            raise
        if snapshot is not None:
            await self._store_state(snapshot)

    def _message(self, batch: list[Commit], at: int) -> tuple[int, bytes]:
        """As many commits as one message holds, at least one."""
        size = 2
        until = at
        for commit in batch[at:]:
            size += len(commit.body) + 1
            if until > at and size > self._most:
                break
            until += 1
        bodies = (commit.body for commit in batch[at:until] if commit.body)
        return until, b"[" + b",".join(bodies) + b"]"

    def _tell(self, commits: list[Commit]) -> None:
        self._metrics.add("mesh_swarm_events", by=float(sum(len(one.events) for one in commits)))
        self.on_stored(commits)
        for commit in commits:
            if not commit.stored.done():
                commit.stored.set_result(None)
            if commit.stored is self._last:
                self._last = None

    def _due(self) -> bool:
        if self._since < self._snapshot_events:
            return False
        if self._since >= self._snapshot_events * SNAPSHOT_EVENTS_MAX:
            return True
        # A large state is worth its write only once as much has happened to it.
        grown = self._bytes_since * SNAPSHOT_SHARE >= self._snapshot_bytes
        return grown and self._loop.time() - self._snapshot_at >= SNAPSHOT_GAP_S

    async def _store_state(self, snapshot: bytes) -> None:
        try:
            sequence = await self._log.append(snapshot, "snapshot")
        except MeshError as error:
            if error.outcome is not Outcome.NOT_EXECUTED:
                raise
            # Only the log grows on; without a place for the snapshot nothing is lost.
            _log.warning("a snapshot could not be stored: %s", error.message)
            self._snapshot_at = self._loop.time()
            return
        self._since = self._bytes_since = 0
        self._snapshot_bytes = len(snapshot)
        self._snapshot_at = self._loop.time()
        self._metrics.add("mesh_swarm_snapshots")
        if not self._purging:
            self._purging = True
            self._tasks.spawn(self._purge(sequence), name="purge-log")

    async def _purge(self, sequence: int) -> None:
        try:
            await self._log.purge_before(sequence)
        except MeshError as error:
            _log.warning("a log was not shortened: %s", error.message)
        finally:
            self._purging = False

    def _end(self, error: MeshError) -> MeshError:
        if self._ended is None:
            self._ended = error
            pending, self._pending = self._pending, []
            for commit in pending:
                if not commit.stored.done():
                    commit.stored.set_result(error)
            self._last = None
        return self._ended
