"""Typed requests to one process: hosts of agents, and owners that are other replicas.

The platform's operations go to a service; these go to an instance. Everything else is the same:
claim checks for large bodies, errors that come back as errors, a bound.
"""

from typing import TypeVar

import msgspec

from mcp_proto.contracts import Operation
from mcp_proto.contracts import swarm as wire
from mcp_proto.contracts.swarm import (
    AgentCommand,
    Commanded,
    OwnerCall,
    Spawn,
    Spawned,
    Work,
    WorkTaken,
)
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
    bus: Bus, tenant: str, swarm: str, ask: OwnerCall, *, timeout_s: float
) -> OwnerAnswer:
    """Have the owner of a swarm answer a call.

    Raises:
        MeshError: what it raised; ``no_runner`` when nobody owns the swarm.
    """
    address = wire.owner_subject(tenant, swarm)
    return await bus.operation(
        directed(tenant, "swarm", address, OwnerCall, OwnerAnswer), ask, timeout_s=timeout_s
    )
