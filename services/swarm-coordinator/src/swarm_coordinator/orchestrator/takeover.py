"""How a replica becomes the owner of a swarm: a new one, or one that was another's."""

import logging
from collections.abc import Callable, Sequence

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.clock import monotonic
from mesh_chassis.lease import Lease
from swarm_coordinator.core import decide
from swarm_coordinator.core.effects import Effect, effects_of
from swarm_coordinator.core.events import Event, Snapshot, decode_batch, encode_batch
from swarm_coordinator.core.evolve import evolve, restore
from swarm_coordinator.core.records import SwarmRecord
from swarm_coordinator.core.state import SwarmState
from swarm_coordinator.orchestrator.history import log_of
from swarm_coordinator.orchestrator.loss import bury, lost
from swarm_coordinator.orchestrator.owner import SwarmOwner
from swarm_coordinator.orchestrator.parts import Parts
from swarm_coordinator.orchestrator.subscriptions import Serve
from swarm_coordinator.store.log import StaleOwner, SwarmLog
from swarm_coordinator.store.values import Values

__all__ = ["Takeover", "replayed"]

FENCES_MAX = 20
"""Attempts to write behind an owner that is still writing; each reads what it wrote."""
_log = logging.getLogger(__name__)


class Replayed:
    """A state that follows its log.

    Attributes:
        state: None before the first event.
        fresh: events since the last snapshot.
    """

    def __init__(self) -> None:
        self.state: SwarmState | None = None
        self.fresh = 0

    async def read_on(self, log: SwarmLog) -> None:
        """Fold what is stored behind what was read.

        Raises:
            MeshError: the log cannot be read, or holds what no version of ours wrote.
        """
        async for entry in log.replay():
            try:
                found = decode_batch(entry.body)
            except ValueError as error:
                raise MeshError(
                    ErrorKind.INTERNAL,
                    "a swarm's log cannot be read",
                    internal=f"sequence {entry.sequence}: {error}",
                ) from error
            if isinstance(found, Snapshot):
                self.state = restore(bytes(found.snapshot))
                self.fresh = 0
                continue
            for event in found:
                self.state = evolve(self.state, event)
            self.fresh += len(found)


async def replayed(log: SwarmLog) -> SwarmState | None:
    """The state that a log says; None for an empty one.

    Raises:
        MeshError: it cannot be read.
    """
    reader = Replayed()
    await reader.read_on(log)
    return reader.state


class Takeover:
    """Makes owners.

    Args:
        parts: what all owners share.
        answer: makes the handler of an ``OwnerCall`` for an owner.
    """

    def __init__(self, parts: Parts, *, answer: Callable[[SwarmOwner], Serve]) -> None:
        self._parts = parts
        self._answer = answer

    async def begin(self, state: SwarmState, events: Sequence[Event]) -> SwarmOwner:
        """The owner of a new swarm, once the first events of its log are stored.

        Args:
            state: after those events.
            events: they.

        Raises:
            MeshError: it could not be stored, or nobody knows.
        """
        lease = self._parts.leases.contender(state.tenant, state.swarm)
        if not await lease.acquire():
            raise _contended()
        try:
            log, values = self.log_of(state.tenant, state.swarm)
            await log.append(encode_batch(events))
            return await self._started(state, log, values, lease, fresh=len(events))
        except StaleOwner:
            await lease.release()
            raise _contended() from None
        except BaseException:
            await lease.release()
            raise

    async def take(self, record: SwarmRecord, *, holder: str = "") -> SwarmOwner | None:
        """Own a swarm that exists; None when another replica has it.

        Args:
            record: of the swarm.
            holder: instance from which the lease is taken, because it does not answer; "" =
                from nobody.

        Raises:
            MeshError: the log cannot be read or written.
        """
        began = monotonic()
        leases = self._parts.leases
        lease = leases.contender(record.tenant, record.swarm)
        if not await leases.claim(lease, record.tenant, record.swarm, holder):
            return None
        try:
            log, values = self.log_of(record.tenant, record.swarm)
            reader = Replayed()
            effects = await self._fence(reader, log)
            if reader.state is None:
                if not await log.is_gone():
                    raise MeshError(ErrorKind.BUS, "the log of the swarm is not there yet")
                await bury(self._parts, record)
                raise lost(record.swarm)
            owner = await self._started(reader.state, log, values, lease, fresh=reader.fresh)
        except StaleOwner:
            await lease.release()
            return None
        except BaseException:
            await lease.release()
            raise
        owner.resume(effects)
        _log.info(
            "swarm %s is owned here",
            record.swarm,
            extra={"events": reader.fresh, "ms": round((monotonic() - began) * 1000)},
        )
        return owner

    async def _fence(self, reader: Replayed, log: SwarmLog) -> list[Effect]:
        """Read everything, and write behind it: from then on nobody else can.

        Returns:
            What the new owner has to say again.
        """
        for _ in range(FENCES_MAX):
            await reader.read_on(log)
            if reader.state is None:
                return []
            now = self._parts.bus.server_now_ms()
            parts = self._parts
            events = decide.owner_changed(reader.state, parts.bus.instance, now, parts.node)
            try:
                await log.append(encode_batch(events))
            except StaleOwner:
                continue  # the owner before has written meanwhile
            for event in events:
                reader.state = evolve(reader.state, event)
            reader.fresh += len(events)
            return effects_of(reader.state, events)
        raise StaleOwner

    async def _started(
        self, state: SwarmState, log: SwarmLog, values: Values, lease: Lease, *, fresh: int
    ) -> SwarmOwner:
        owner = SwarmOwner(
            self._parts, state, log, lease, values=values, answer=self._answer, fresh=fresh
        )
        try:
            await owner.start()
        except BaseException:
            await owner.abandon()
            raise
        return owner

    def log_of(self, tenant: str, swarm: str) -> tuple[SwarmLog, Values]:
        """The log of a swarm, nothing of it read yet, and the tenant's large values."""
        return log_of(self._parts, tenant, swarm)


def _contended() -> MeshError:
    return MeshError(
        ErrorKind.OVERLOADED,
        "the swarm has another owner",
        outcome=Outcome.NOT_EXECUTED,
        retry_after_s=0.2,
    )
