"""What a host's beat says of its agents, and what it shows to be missing on either side."""

import msgspec

from mcp_proto.contracts.swarm import AgentBeat, Beat
from swarm_coordinator.core.decide.attempts import find, losses
from swarm_coordinator.core.events import (
    AgentActive,
    AgentLost,
    AgentReturned,
    AgentTerminated,
    Event,
    ItemsGone,
)
from swarm_coordinator.core.limits import LOST_MS, RESEND_MS
from swarm_coordinator.core.state import AgentState, SwarmState

__all__ = ["Reconciled", "beat", "reconcile"]


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What a beat shows to be missing on either side.

    Attributes:
        resend: items to send again (``effects.work_items``).
        cancel: items the host shall end.
        stop: agents the host shall end.
    """

    resend: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()


def beat(state: SwarmState, host: str, beat: Beat, now_ms: int) -> list[Event]:
    """What a beat changes: agents become active, return, are gone; cancelled items are gone.

    An agent of the host that a beat does not name, some time after its spawn, is lost: the host
    has begun anew.
    """
    events: list[Event] = []
    gone: set[str] = set()
    named: set[str] = set()
    for said in beat.agents:
        agent = state.agents.get(said.agent)
        if agent is None or agent.host != host or agent.id in named:
            continue
        if _is_older_life(agent, beat):
            continue
        named.add(agent.id)
        events.extend(_said(state, agent, said, beat.node, now_ms, gone))
    for agent in state.agents.values():
        settled = agent.status in ("active", "draining") and now_ms - agent.changed_ms > LOST_MS
        if agent.host == host and agent.id not in named and settled:
            events.extend(_lost(state, agent, "its host does not name it", now_ms, gone))
    return events


def _is_older_life(agent: AgentState, beat: Beat) -> bool:
    """Another process of the same program has taken its place since."""
    return agent.external and agent.boot != beat.boot


def _lost(
    state: SwarmState, agent: AgentState, why: str, now_ms: int, gone: set[str]
) -> list[Event]:
    lost = losses(state, agent, why, now_ms, gone)
    if agent.status == "draining":
        return [*lost, AgentTerminated(at=now_ms, agent=agent.id, reason=why)]
    return [*lost, AgentLost(at=now_ms, agent=agent.id, reason=why)]


def _said(
    state: SwarmState, agent: AgentState, said: AgentBeat, node: str, now_ms: int, gone: set[str]
) -> list[Event]:
    if agent.status == "terminated":
        return []
    if said.state == "gone":
        why = "its process ended"
        return [
            *losses(state, agent, why, now_ms, gone),
            AgentTerminated(at=now_ms, agent=agent.id, reason=why),
        ]
    if agent.status == "spawning" and said.state == "active":
        return [AgentActive(at=now_ms, agent=agent.id, node=node)]
    if agent.status == "lost" and said.state in ("active", "draining"):
        epoch = agent.epoch + 1
        return [AgentReturned(at=now_ms, agent=agent.id, epoch=epoch, node=node)]
    has = frozenset(said.items)
    left = tuple(
        item
        for item, since in agent.leaving.items()
        if item not in has and now_ms - since > RESEND_MS
    )
    if not left:
        return []
    return [ItemsGone(at=now_ms, agent=agent.id, items=left, reason="its host has it no more")]


def reconcile(state: SwarmState, host: str, beat: Beat, now_ms: int) -> Reconciled:
    """What to answer to a beat, after its events were folded."""
    resend: list[str] = []
    cancel: list[str] = []
    stop: list[str] = []
    for said in beat.agents:
        agent = state.agents.get(said.agent)
        if agent is not None and agent.status == "spawning" and not agent.host:
            continue  # its first beat came before the host's answer to the spawn
        ended = agent is None or agent.status == "terminated" or _is_older_life(agent, beat)
        if agent is None or agent.host != host or ended:
            cancel.extend(said.items)
            if said.state != "gone":
                stop.append(said.agent)
            continue
        cancel.extend(item for item in said.items if item not in agent.items)
        has = frozenset(said.items)
        resend.extend(
            item
            for item, sent in agent.items.items()
            if item not in has and now_ms - sent > RESEND_MS and _is_wanted(state, item)
        )
    return Reconciled(resend=tuple(resend), cancel=tuple(cancel), stop=tuple(stop))


def _is_wanted(state: SwarmState, item: str) -> bool:
    found = find(state, item)
    step = found[1] if found is not None else None
    return step is not None and any(run.item == item for run in step.runs)
