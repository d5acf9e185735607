"""What an agent looks like from outside; every number measured, or null."""

import msgspec

from swarm_coordinator.core.state import AgentState, SwarmState

__all__ = [
    "HealthDetail",
    "current_task",
    "health_detail",
    "health_of",
    "is_active",
    "living",
    "stats_of",
    "status_of",
]


class HealthDetail(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The parts of an agent's health; ``failure_share`` None = no result yet."""

    lost: bool
    failure_share: float | None
    samples: int
    breaker: str


def status_of(agent: AgentState) -> str:
    """Status; ``busy`` is active with work."""
    return "busy" if agent.status == "active" and agent.load else agent.status


def is_active(agent: AgentState) -> bool:
    """Whether it can be given work."""
    return agent.status == "active"


def current_task(agent: AgentState) -> str | None:
    """The task of the attempt it has had longest."""
    oldest = min(agent.items.items(), key=lambda item: item[1], default=None)
    return None if oldest is None else oldest[0].partition(".")[0]


def health_detail(agent: AgentState, now_ms: int) -> HealthDetail:
    """What its health is made of."""
    stats = agent.stats
    return HealthDetail(
        lost=agent.status in {"lost", "terminated"},
        failure_share=None if stats.failure_ewma is None else round(stats.failure_ewma, 4),
        samples=stats.completed + stats.failed,
        breaker="open" if agent.breaker_until_ms > now_ms else "closed",
    )


def health_of(agent: AgentState, now_ms: int) -> float:
    """0..100: nothing when it is lost, less by its failures, half while its breaker is open."""
    detail = health_detail(agent, now_ms)
    if detail.lost:
        return 0.0
    share = 100.0 * (1.0 - (detail.failure_share or 0.0))
    return round(share * (0.5 if detail.breaker == "open" else 1.0), 2)


def stats_of(agent: AgentState) -> dict[str, object]:
    """What it has done."""
    stats = agent.stats
    results = stats.completed + stats.failed
    return {
        "completed": stats.completed,
        "failed": stats.failed,
        "rejected": stats.rejected,
        "late": stats.late,
        "successRate": round(stats.completed / results, 4) if results else None,
        "durationMs": {kind: round(ms, 3) for kind, ms in stats.duration_ms.items()},
        "samples": dict(stats.samples),
        "ballots": stats.voted,
        "agreed": stats.agreed,
    }


def living(state: SwarmState) -> list[AgentState]:
    """Agents that are not terminated, in order of their creation."""
    return [agent for agent in state.agents.values() if agent.status != "terminated"]
