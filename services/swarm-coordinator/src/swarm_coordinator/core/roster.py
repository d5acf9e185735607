"""The agents of a swarm as planning, topology and votes see them."""

from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.state import AgentState, SwarmState, TaskState
from swarm_coordinator.core.topology import Network, network_of
from swarm_coordinator.core.views import AgentView, Pace
from swarm_coordinator.core.weights import Voter

__all__ = ["available", "living", "network", "team_of", "view_of", "voter_of"]


def view_of(agent: AgentState) -> AgentView:
    """An agent for the planner."""
    stats = agent.stats
    tried = stats.failure_ewma is not None
    return AgentView(
        id=agent.id,
        type=agent.type,
        name=agent.name,
        capabilities=agent.capabilities,
        slots=agent.slots,
        load=agent.load,
        success_rate=1 - (stats.failure_ewma or 0.0) if tried else None,
        joined_ms=agent.created_ms,
        durations={
            kind: Pace(ewma_ms=mean, samples=stats.samples.get(kind, 0))
            for kind, mean in stats.duration_ms.items()
        },
        parent=agent.parent,
    )


def living(state: SwarmState, *, spawning: bool = False) -> list[AgentView]:
    """Agents that can be given work: active ones; with ``spawning``, those on their way too."""
    return [
        view_of(agent)
        for agent in state.agents.values()
        if agent.status == "active"
        or (spawning and agent.status == "spawning" and not agent.external)
    ]


def available(state: SwarmState, spec: TaskSpec, *, spawning: bool = False) -> list[AgentView]:
    """``living``, of those that may do this task: with ``mode: local``, beside the owner."""
    found = living(state, spawning=spawning)
    if spec.execution.mode != "local":
        return found
    return [one for one in found if state.node and state.agents[one.id].node == state.node]


def network(state: SwarmState, *, spawning: bool = False) -> Network:
    """Who may talk to whom now; with ``spawning``, once those that come are there."""
    there = ("active", "draining", "spawning") if spawning else ("active", "draining")
    here = [one for one in state.agents.values() if one.status in there]
    gone = [one for one in state.agents.values() if one.status in ("lost", "terminated")]
    return network_of(
        state.topology,
        [view_of(agent) for agent in here],
        state.config,
        [view_of(agent) for agent in gone],
    )


def team_of(state: SwarmState, task: TaskState) -> list[AgentView]:
    """Those of a task's team that may work yet; lost ones may come back."""
    found = [state.agents[name] for name in task.team if name in state.agents]
    return [view_of(agent) for agent in found if agent.status in ("active", "spawning", "lost")]


def voter_of(agent: AgentState) -> Voter:
    """An agent as a voter."""
    stats = agent.stats
    return Voter(
        id=agent.id,
        capabilities=agent.capabilities,
        weight=agent.weight,
        votes=stats.voted,
        agreement=stats.agreed / stats.voted if stats.voted else 0.0,
        joined_ms=agent.created_ms,
    )
