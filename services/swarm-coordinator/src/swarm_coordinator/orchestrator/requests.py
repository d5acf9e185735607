"""Typed requests to one process: hosts of agents, and owners that are other replicas.

The platform's operations go to a service; these go to an instance. Everything else is the same:
claim checks for large bodies, errors that come back as errors, a bound.
"""

import contextlib
from collections.abc import Callable
from typing import TypeVar

import msgspec

from mcp_proto.contracts import Operation
from mcp_proto.contracts import swarm as wire
from mcp_proto.contracts.swarm import (
    AgentCommand,
    Commanded,
    Spawn,
    Spawned,
    Work,
    WorkTaken,
)
from mcp_proto.contracts.swarm_replicas import OwnerCall, TaskReached
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.connection import Bus

__all__ = ["OwnerAnswer", "ask_owner", "command", "directed", "send_work", "spawn"]

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class OwnerAnswer(msgspec.Struct, frozen=True):
    """What an owner answers to another replica: the body of the answer, as it goes out."""

    body: msgspec.Raw = msgspec.Raw(b"null")


class _Directed(Operation[P, R], frozen=True):
    """An operation of one instance, named by its subject."""

    address: str = ""

    @property
    def subject(self) -> str:
        """Subject of the instance."""
        return self.address


def directed(
    tenant: str, verb: str, address: str, params: type[P], result: type[R]
) -> Operation[P, R]:
    """An operation on the subject of one instance.

    Args:
        tenant: whose claim checks large bodies are.
        verb: for logs and errors.
        address: the subject.
        params: type of the request's body.
        result: type of the answer's.
    """
    return _Directed(
        service=wire.HOST, name=verb, params=params, result=result, tenant=tenant, address=address
    )


async def spawn(bus: Bus, tenant: str, host: str, ask: Spawn, *, timeout_s: float) -> Spawned:
    """Have a host start an agent.

    Raises:
        MeshError: ``no_runner`` when the host is gone, and as ``Bus.operation``.
    """
    address = wire.spawn_subject(tenant, host)
    return await bus.operation(
        directed(tenant, "spawn", address, Spawn, Spawned), ask, timeout_s=timeout_s
    )


async def send_work(bus: Bus, tenant: str, host: str, work: Work, *, timeout_s: float) -> WorkTaken:
    """Give work to the agents of a host.

    Raises:
        MeshError: as ``spawn``.
    """
    address = wire.work_subject(tenant, host)
    return await bus.operation(
        directed(tenant, "work", address, Work, WorkTaken), work, timeout_s=timeout_s
    )


async def command(
    bus: Bus, tenant: str, host: str, ask: AgentCommand, *, timeout_s: float
) -> Commanded:
    """Tell a host something about its agents.

    Raises:
        MeshError: as ``spawn``.
    """
    address = wire.command_subject(tenant, host)
    return await bus.operation(
        directed(tenant, "agent", address, AgentCommand, Commanded), ask, timeout_s=timeout_s
    )


async def ask_owner(
    bus: Bus,
    tenant: str,
    swarm: str,
    ask: OwnerCall,
    *,
    timeout_s: float,
    tell: Callable[[TaskReached], None] | None = None,
) -> OwnerAnswer:
    """Have the owner of a swarm answer a call.

    Args:
        bus: connected.
        tenant: of the swarm.
        swarm: its id.
        ask: the call.
        timeout_s: longest wait.
        tell: takes how far a task is that the call waits for; None = not wanted.

    Raises:
        MeshError: what it raised; ``no_runner`` when nobody owns the swarm.
    """
    address = wire.owner_subject(tenant, swarm)
    if tell is not None:
        return await _with_progress(bus, tenant, address, ask, timeout_s, tell)
    return await bus.operation(
        directed(tenant, "swarm", address, OwnerCall, OwnerAnswer), ask, timeout_s=timeout_s
    )


async def _with_progress(
    bus: Bus,
    tenant: str,
    address: str,
    ask: OwnerCall,
    timeout_s: float,
    tell: Callable[[TaskReached], None],
) -> OwnerAnswer:
    def heard(frame: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            tell(_REACHED.decode(frame))

    body = await bus.call(
        address,
        _encode(ask),
        envelope=RequestEnvelope(),
        timeout_s=timeout_s,
        tenant=tenant,
        on_frame=heard,
    )
    try:
        return _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeshError(
            ErrorKind.INTERNAL,
            "the owner gave an answer of another shape",
            outcome=Outcome.EXECUTED,
            internal=str(error),
        ) from error


_REACHED = msgspec.json.Decoder(TaskReached)
_ANSWER = msgspec.json.Decoder(OwnerAnswer)
_encode = msgspec.json.Encoder().encode
