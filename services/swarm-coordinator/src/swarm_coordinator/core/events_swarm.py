"""What can happen to a swarm and its agents, and their mail. Contract: see ``events``."""

from typing import Literal

import msgspec

from mcp_proto.contracts.swarm import Mail, Spawned
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.facts import LogEntry
from swarm_coordinator.core.spec import SwarmConfig, Topology

__all__ = [
    "AgentActive",
    "AgentAdded",
    "AgentAttached",
    "AgentDraining",
    "AgentLost",
    "AgentPlaced",
    "AgentReturned",
    "AgentTerminated",
    "BreakerOpened",
    "MailDropped",
    "MailSent",
    "MailTaken",
    "OwnerChanged",
    "SwarmCreated",
    "SwarmDestroyed",
]


# The swarm


class SwarmCreated(LogEntry, frozen=True, tag="swarm"):
    """The first event of a log."""

    swarm: str
    tenant: str
    principal: str
    name: str = ""
    topology: Topology = "mesh"
    config: SwarmConfig = SwarmConfig()
    idempotency: str = ""


class SwarmDestroyed(LogEntry, frozen=True, tag="destroyed"):
    """Nothing is taken any more; its tasks and agents end by events of their own."""

    reason: str = ""


class OwnerChanged(LogEntry, frozen=True, tag="owner"):
    """A replica took the swarm over; its append fences the one before. ``node`` = its machine."""

    owner: str
    epoch: int
    node: str = ""


# Agents


class AgentAdded(LogEntry, frozen=True, tag="agent"):
    """An agent was asked for: ``spawning``."""

    agent: str
    type: str
    name: str = ""
    capabilities: tuple[str, ...] = ()
    parent: str = ""
    config: msgspec.Raw = ABSENT
    weight: float = 1.0
    timeout_s: int = 300
    external: bool = False
    claim: str = ""


class AgentPlaced(LogEntry, frozen=True, tag="placed"):
    """Its process runs on a host; active with its first beat."""

    agent: str
    host: str
    spawned: Spawned
    slots: int = 1


class AgentAttached(LogEntry, frozen=True, tag="attached"):
    """An external process took its place, in a new life: active."""

    agent: str
    host: str
    boot: str
    epoch: int
    capabilities: tuple[str, ...] = ()
    slots: int = 1
    node: str = ""


class AgentActive(LogEntry, frozen=True, tag="active"):
    """Its first beat, from this machine."""

    agent: str
    node: str = ""


class AgentDraining(LogEntry, frozen=True, tag="draining"):
    """It takes nothing new."""

    agent: str
    reason: str = ""


class AgentLost(LogEntry, frozen=True, tag="lost"):
    """No beat, or its host does not know it. Its items end by events of their own, before."""

    agent: str
    reason: str = ""


class AgentReturned(LogEntry, frozen=True, tag="returned"):
    """A lost agent beats again: active, in a new life."""

    agent: str
    epoch: int
    node: str = ""


class AgentTerminated(LogEntry, frozen=True, tag="terminated"):
    """It is gone for ever. Its items end by events of their own, before."""

    agent: str
    reason: str = ""


class BreakerOpened(LogEntry, frozen=True, tag="breaker"):
    """It gets no work before ``until_ms``."""

    agent: str
    until_ms: int
    reason: str = ""


# Mail


class MailSent(LogEntry, frozen=True, tag="mail"):
    """A message waits in the mailbox of ``to``; ``link`` = ``from>to`` of each hop it takes."""

    to: str
    mail: Mail
    until_ms: int
    links: tuple[str, ...] = ()
    task: str = ""


class MailTaken(LogEntry, frozen=True, tag="mail-taken"):
    """An agent has them."""

    agent: str
    ids: tuple[str, ...]


class MailDropped(LogEntry, frozen=True, tag="mail-dropped"):
    """They gave way to newer ones, or waited too long."""

    agent: str
    ids: tuple[str, ...]
    reason: Literal["full", "old", "gone"] = "old"
