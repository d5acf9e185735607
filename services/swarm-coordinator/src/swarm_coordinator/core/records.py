"""What is stored of a swarm beside its log: its projection, and values it remembers."""

from typing import Literal

import msgspec

from mcp_proto import buckets
from swarm_coordinator.core.spec import Topology

__all__ = ["Remembered", "SwarmRecord", "swarm_key"]


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a swarm's memory; times are Unix ms, ``expires_ms`` None = never."""

    value: msgspec.Raw
    revision: int
    updated_ms: int
    expires_ms: int | None = None


class SwarmRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Value of ``{tenant}.{swarm}`` in ``mesh_swarms``; the log is the truth.

    Attributes:
        swarm: its id.
        tenant: whose tenant.
        principal: who made it.
        name: for people.
        topology: shape.
        status: ``destroyed`` swarms are kept for a day.
        created_ms: Unix time.
        sequence: of the log, up to which this holds.
        agents: agents that are not terminated.
        tasks: tasks that are not terminal.
        owner: replica that had it last.
        idempotency: key of ``swarm_init`` it was made with; "" = none.
    """

    swarm: str
    tenant: str
    principal: str
    name: str = ""
    topology: Topology = "mesh"
    status: Literal["active", "destroyed"] = "active"
    created_ms: int = 0
    sequence: int = 0
    agents: int = 0
    tasks: int = 0
    owner: str = ""
    idempotency: str = ""


def swarm_key(tenant: str, swarm: str) -> str:
    """Key of a record."""
    return buckets.key(tenant, swarm)
