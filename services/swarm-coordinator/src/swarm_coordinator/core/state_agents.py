"""What a swarm knows of its agents. Times are Unix ms."""

from typing import Literal

import msgspec

from mcp_proto.contracts.swarm import Mail, Spawned
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.facts import Facts, FrozenFacts

__all__ = ["AgentState", "AgentStats", "AgentStatus", "Held"]

AgentStatus = Literal["spawning", "active", "draining", "lost", "terminated"]


class Held(FrozenFacts, frozen=True):
    """A message that waits for its agent until ``until_ms``."""

    mail: Mail
    until_ms: int


class AgentStats(Facts):
    """Measured; None and absent = nothing to measure yet.

    Attributes:
        completed: steps done.
        failed: attempts that failed.
        rejected: attempts it refused.
        late: results that came too late to count.
        in_row: failures since the last success.
        failure_ewma: share of failures, about the last 20 results; None = no result.
        duration_ms: average by kind of step, from sending to result.
        samples: results behind those averages.
        agreed: ballots that were the decision's.
        voted: ballots in votes that were decided.
    """

    completed: int = 0
    failed: int = 0
    rejected: int = 0
    late: int = 0
    in_row: int = 0
    failure_ewma: float | None = None
    duration_ms: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    samples: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    agreed: int = 0
    voted: int = 0


class AgentState(Facts):
    """One agent. When it last beat is not here: the owner keeps that in memory.

    Attributes:
        id: ``agent_…``.
        type: built-in type or runtime kind.
        name: for people.
        capabilities: declared; once it runs, those that its host reported.
        parent: explicit parent; "" = by rank.
        config: as given (JSON object).
        weight: voice in weighted votes.
        timeout_s: of an attempt, where the phase says nothing.
        host: instance that runs it; "" = not placed yet. Only it is believed about this agent.
        node: machine of the host, as it says; "" = it has not said.
        epoch: life; counted up when a lost agent is back and when a process attaches.
        status: ``busy`` is derived: active with items.
        runtime: kind that runs it.
        model_source: "" = none.
        slots: steps at once.
        items: attempts it has, and when they were sent (ms); they occupy slots.
        leaving: attempts it was told to cancel, and when; they occupy slots until they are gone.
        spawned: measured at the spawn; None = not spawned yet.
        created_ms: when it was asked for; spawn order is rank.
        spawned_ms: when its process ran.
        changed_ms: last change of status.
        reason: of the last change of status.
        stats: measured.
        breaker_until_ms: no work before this; 0 = closed.
        mailbox: oldest first.
        claim: hash of the token with which an external process may attach; "" = none.
        boot: life of the attached program.
        external: attaches by itself.
    """

    id: str
    type: str
    name: str = ""
    capabilities: tuple[str, ...] = ()
    parent: str = ""
    config: msgspec.Raw = ABSENT
    weight: float = 1.0
    timeout_s: int = 300
    host: str = ""
    node: str = ""
    epoch: int = 1
    status: AgentStatus = "spawning"
    runtime: str = ""
    model_source: str = ""
    slots: int = 1
    items: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    leaving: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    spawned: Spawned | None = None
    created_ms: int = 0
    spawned_ms: int = 0
    changed_ms: int = 0
    reason: str = ""
    stats: AgentStats = msgspec.field(default_factory=AgentStats)
    breaker_until_ms: int = 0
    mailbox: list[Held] = msgspec.field(default_factory=list[Held])
    claim: str = ""
    boot: str = ""
    external: bool = False

    @property
    def load(self) -> int:
        """Occupied slots."""
        return len(self.items) + len(self.leaving)

    @property
    def free(self) -> int:
        """Slots for new work; 0 unless active."""
        return max(0, self.slots - self.load) if self.status == "active" else 0
