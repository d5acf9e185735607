"""All swarms that have agents in this process, and the subjects where their owners reach it."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts.swarm import (
    BEAT_S,
    AgentCommand,
    Commanded,
    Work,
    WorkTaken,
    command_subject,
    work_subject,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.tasks import Tasks
from mesh_sdk.swarm.membership import Membership
from mesh_sdk.swarm.resident import Resident

__all__ = ["Residence"]

SLOTS = 256
"""Requests of owners at once; taking work takes no time, stopping an agent some seconds."""
SWARMS_MAX = 4_096
"""Swarms that have agents in one process."""

T = TypeVar("T", bound=msgspec.Struct)

_WORK = msgspec.json.Decoder(Work)
_COMMAND = msgspec.json.Decoder(AgentCommand)
_encode = msgspec.json.Encoder().encode


class Residence:
    """The agents of this process.

    Args:
        bus: connected; its instance is the host.
        tasks: parent of everything here.
        node: name of this machine; "" = its host name.
        beat_s: interval of beats.
        unknown: hears which agents an owner does not want.
    """

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        *,
        node: str = "",
        beat_s: float = BEAT_S,
        unknown: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.node = node or socket.gethostname()
        self._bus = bus
        self._tasks = tasks
        self._beat_s = beat_s
        self._unknown = unknown
        self._memberships: dict[tuple[str, str], Membership] = {}

    def __iter__(self) -> Iterator[Membership]:
        """Every swarm here."""
        return iter(list(self._memberships.values()))

    @property
    def residents(self) -> list[Resident]:
        """Every agent here that has not gone."""
        return [
            one for each in self for one in each.residents.values() if one.state != "gone"
        ]  # fmt: skip

    @property
    def busy(self) -> int:
        """Attempts that run or wait here."""
        return sum(one.busy for one in self)

    @property
    def waiting(self) -> int:
        """Results that owners have not taken."""
        return sum(one.waiting for one in self)

    def find(self, tenant: str, swarm: str) -> Membership | None:
        """A swarm that is here."""
        return self._memberships.get((tenant, swarm))

    def join(self, tenant: str, swarm: str) -> Membership:
        """A swarm that an agent is about to live in; ``enter`` or ``leave`` must follow.

        Raises:
            MeshError: ``overloaded``.
        """
        found = self.find(tenant, swarm)
        if found is None:
            if len(self._memberships) >= SWARMS_MAX:
                raise MeshError(ErrorKind.OVERLOADED, "too many swarms have agents here")
            found = self._memberships[tenant, swarm] = Membership(
                self._bus,
                self._tasks,
                tenant,
                swarm,
                node=self.node,
                ended=self._ended,
                beat_s=self._beat_s,
                unknown=self._unknown,
            )
        found.expected += 1
        return found

    def enter(self, membership: Membership, resident: Resident) -> None:
        """The agent lives here from now on."""
        membership.expected -= 1
        membership.add(resident)
        membership.start()

    def leave(self, membership: Membership) -> None:
        """The agent was not started after all."""
        membership.expected -= 1
        membership.beat_soon()
        if not membership.started and not membership.expected:
            self._ended(membership)

    def endpoints(self, tenant: str = subjects.ANY) -> tuple[Endpoint, Endpoint]:
        """Where owners reach the agents here.

        Args:
            tenant: whose; any by default.
        """
        host = self._bus.instance
        return (
            Endpoint(
                self._bus, subject=work_subject(tenant, host), handler=self._work, slots=SLOTS,
                name="work",
            ),
            Endpoint(
                self._bus, subject=command_subject(tenant, host), handler=self._command,
                slots=SLOTS, name="agent",
            ),
        )  # fmt: skip

    async def close(self, flush_s: float) -> None:
        """Deliver what waits, as far as time goes, and forget every swarm."""
        await asyncio.gather(*(one.close(flush_s) for one in self))

    async def _work(self, call: Call) -> bytes:
        work = _decoded(_WORK, call.payload)
        found = self.find(call.subject.tenant, work.swarm)
        if found is None:
            return _encode(WorkTaken(refused={one.item: "unknown_agent" for one in work.items}))
        return _encode(found.take(work))

    async def _command(self, call: Call) -> bytes:
        command = _decoded(_COMMAND, call.payload)
        found = self.find(call.subject.tenant, command.swarm)
        if found is None:
            return _encode(Commanded(known=False, message="nothing of this swarm is here"))
        return _encode(await found.command(command))

    def _ended(self, membership: Membership) -> None:
        self._memberships.pop((membership.tenant, membership.swarm), None)


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeshError(ErrorKind.PARAMS, f"not what an owner sends: {error}") from error
