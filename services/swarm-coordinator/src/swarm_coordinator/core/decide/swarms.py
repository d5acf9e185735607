"""A swarm begins, changes owner, ends."""

from swarm_coordinator.core.decide.attempts import cancelled
from swarm_coordinator.core.events import (
    AgentTerminated,
    Event,
    ItemsGone,
    OwnerChanged,
    SwarmCreated,
    SwarmDestroyed,
    TaskEnded,
)
from swarm_coordinator.core.limits import AGENTS_MAX
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.spec import SwarmConfig, Topology
from swarm_coordinator.core.state import SwarmState

__all__ = ["create", "destroy", "owner_changed"]


def create(
    *,
    swarm: str,
    tenant: str,
    principal: str,
    topology: Topology,
    config: SwarmConfig,
    owner: str,
    node: str = "",
    name: str = "",
    idempotency: str = "",
    now_ms: int,
) -> list[Event]:
    """The first events of a swarm: made, and owned by ``owner`` on ``node`` (epoch 1).

    Raises:
        Refusal: ``params``: a setting out of its range.
    """
    if not 1 <= config.max_agents <= AGENTS_MAX:
        raise Refusal(
            "params", "range", f"maxAgents must be 1..{AGENTS_MAX}", where="/config/maxAgents"
        )
    if not 0 <= config.consensus_threshold <= 1:
        raise Refusal(
            "params",
            "range",
            "consensusThreshold must be 0..1",
            where="/config/consensusThreshold",
        )
    if config.fanout < 1:
        raise Refusal("params", "range", "fanout must be at least 1", where="/config/fanout")
    return [
        SwarmCreated(
            at=now_ms,
            swarm=swarm,
            tenant=tenant,
            principal=principal,
            name=name,
            topology=topology,
            config=config,
            idempotency=idempotency,
        ),
        OwnerChanged(at=now_ms, owner=owner, epoch=1, node=node),
    ]


def owner_changed(state: SwarmState, owner: str, now_ms: int, node: str = "") -> list[Event]:
    """Another replica took over. Its effect is that all work on its way is sent again."""
    return [OwnerChanged(at=now_ms, owner=owner, epoch=state.owner_epoch + 1, node=node)]


def destroy(state: SwarmState, reason: str, now_ms: int) -> list[Event]:
    """Cancel every task, terminate every agent, end. Nothing if it has ended already."""
    if state.status == "destroyed":
        return []
    events: list[Event] = []
    for name in state.agenda.live:
        task = state.tasks[name]
        events.extend(cancelled(task, task.steps.values(), reason, now_ms))
    for agent in state.agents.values():
        if agent.status == "terminated":
            continue
        if has := (*agent.items, *agent.leaving):
            events.append(ItemsGone(at=now_ms, agent=agent.id, items=has, reason=reason))
        events.append(AgentTerminated(at=now_ms, agent=agent.id, reason=reason))
    events.extend(
        TaskEnded(
            at=now_ms,
            task=name,
            status="cancelled",
            reason="destroyed",
            message=reason,
            partial=state.tasks[name].done > 0,
        )
        for name in state.agenda.live
    )
    return [*events, SwarmDestroyed(at=now_ms, reason=reason)]
