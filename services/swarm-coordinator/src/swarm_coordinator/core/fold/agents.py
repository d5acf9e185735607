"""The swarm itself, its agents and their mail."""

from swarm_coordinator.core.events import (
    AgentActive,
    AgentAdded,
    AgentAttached,
    AgentDraining,
    AgentLost,
    AgentPlaced,
    AgentReturned,
    AgentTerminated,
    BreakerOpened,
    MailDropped,
    MailSent,
    MailTaken,
    OwnerChanged,
    SwarmDestroyed,
)
from swarm_coordinator.core.limits import AGENTS_KEPT_MAX, LOST_KEPT_MS, SPAWN_MS
from swarm_coordinator.core.schedule_queues import rebuild_queues
from swarm_coordinator.core.state import AgentState, Held, SwarmState

__all__ = [
    "agent_active",
    "agent_added",
    "agent_attached",
    "agent_draining",
    "agent_lost",
    "agent_placed",
    "agent_returned",
    "agent_terminated",
    "breaker_opened",
    "mail_dropped",
    "mail_sent",
    "mail_taken",
    "owner_changed",
    "swarm_destroyed",
]


def owner_changed(state: SwarmState, event: OwnerChanged) -> None:
    """Somebody else has it."""
    state.owner, state.node = event.owner, event.node
    state.owner_epoch = event.epoch
    state.counters.owners += 1


def swarm_destroyed(state: SwarmState, event: SwarmDestroyed) -> None:
    """It takes nothing any more."""
    state.status = "destroyed"
    state.ended_ms = event.at


def agent_added(state: SwarmState, event: AgentAdded) -> None:
    """It is asked for. Of those that have ended, the oldest are forgotten."""
    state.agents[event.agent] = AgentState(
        id=event.agent,
        type=event.type,
        name=event.name,
        capabilities=event.capabilities,
        parent=event.parent,
        config=event.config,
        weight=event.weight,
        timeout_s=event.timeout_s,
        external=event.external,
        claim=event.claim,
        created_ms=event.at,
        changed_ms=event.at,
    )
    state.agenda.at(event.at + SPAWN_MS, "spawn", event.agent)
    if len(state.agents) > AGENTS_KEPT_MAX:
        oldest = next((one.id for one in state.agents.values() if one.status == "terminated"), "")
        state.agents.pop(oldest, None)


def _changed(state: SwarmState, agent: AgentState, at: int, reason: str = "") -> None:
    agent.changed_ms = at
    agent.reason = reason
    rebuild_queues(state)


def agent_placed(state: SwarmState, event: AgentPlaced) -> None:
    """Its process runs."""
    agent = state.agents[event.agent]
    spawned = event.spawned
    agent.host = event.host
    agent.spawned = spawned
    agent.spawned_ms = event.at
    agent.runtime, agent.model_source = spawned.runtime, spawned.model_source
    agent.capabilities = tuple(dict.fromkeys((*agent.capabilities, *spawned.capabilities)))
    agent.slots = event.slots
    agent.changed_ms = event.at
    state.agenda.at(event.at + SPAWN_MS, "spawn", event.agent)


def agent_attached(state: SwarmState, event: AgentAttached) -> None:
    """A process took its place, in a new life."""
    agent = state.agents[event.agent]
    agent.host, agent.boot, agent.epoch = event.host, event.boot, event.epoch
    agent.node = event.node
    agent.capabilities = tuple(dict.fromkeys((*agent.capabilities, *event.capabilities)))
    agent.slots = event.slots
    agent.runtime = agent.runtime or "external"
    agent.spawned_ms = event.at
    agent.status = "active"
    _changed(state, agent, event.at)


def agent_active(state: SwarmState, event: AgentActive) -> None:
    """Its first beat."""
    agent = state.agents[event.agent]
    agent.node = event.node
    agent.status = "active"
    _changed(state, agent, event.at)


def agent_draining(state: SwarmState, event: AgentDraining) -> None:
    """It takes nothing new."""
    agent = state.agents[event.agent]
    agent.status = "draining"
    _changed(state, agent, event.at, event.reason)


def agent_lost(state: SwarmState, event: AgentLost) -> None:
    """Silence. What it was told to cancel counts as gone."""
    agent = state.agents[event.agent]
    agent.status = "lost"
    _drop_leaving(state, agent)
    _changed(state, agent, event.at, event.reason)
    state.agenda.at(event.at + LOST_KEPT_MS, "lost", agent.id)


def _drop_leaving(state: SwarmState, agent: AgentState) -> None:
    for item in agent.leaving:
        task = state.tasks.get(item.partition(".")[0])
        if task is not None:
            task.leaving -= 1
            state.agenda.touch(task.id)
    agent.leaving = {}


def agent_returned(state: SwarmState, event: AgentReturned) -> None:
    """It beats again, in a new life."""
    agent = state.agents[event.agent]
    agent.epoch, agent.node = event.epoch, event.node
    agent.status = "active"
    agent.stats.in_row = 0
    _changed(state, agent, event.at)


def agent_terminated(state: SwarmState, event: AgentTerminated) -> None:
    """It is gone for ever."""
    agent = state.agents[event.agent]
    agent.status = "terminated"
    agent.claim = ""
    _drop_leaving(state, agent)
    _changed(state, agent, event.at, event.reason)


def breaker_opened(state: SwarmState, event: BreakerOpened) -> None:
    """It gets no work for a while."""
    agent = state.agents[event.agent]
    agent.breaker_until_ms = event.until_ms
    state.agenda.at(event.until_ms, "breaker", agent.id)


def mail_sent(state: SwarmState, event: MailSent) -> None:
    """A message waits."""
    agent = state.agents[event.to]
    if not agent.mailbox:
        state.agenda.at(event.until_ms, "mail", agent.id)
    agent.mailbox.append(Held(mail=event.mail, until_ms=event.until_ms))
    state.counters.mails += 1
    for link in event.links:
        state.links[link] = state.links.get(link, 0) + 1
    task = state.tasks.get(event.task)
    if task is not None:
        task.spent.messages += 1


def _without(state: SwarmState, agent: AgentState, ids: tuple[str, ...]) -> int:
    before, gone = len(agent.mailbox), frozenset(ids)
    agent.mailbox = [held for held in agent.mailbox if held.mail.id not in gone]
    if agent.mailbox:
        state.agenda.at(agent.mailbox[0].until_ms, "mail", agent.id)
    return before - len(agent.mailbox)


def mail_taken(state: SwarmState, event: MailTaken) -> None:
    """The agent has them."""
    _without(state, state.agents[event.agent], event.ids)


def mail_dropped(state: SwarmState, event: MailDropped) -> None:
    """They are gone undelivered."""
    state.counters.mails_dropped += _without(state, state.agents[event.agent], event.ids)
