"""Agents come, are placed, drain, are lost, end. What beats say of them is in ``beats``."""

import msgspec

from mcp_proto.contracts.swarm import Attach, Spawned
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.decide.attempts import losses
from swarm_coordinator.core.events import (
    AgentAdded,
    AgentAttached,
    AgentDraining,
    AgentLost,
    AgentPlaced,
    AgentTerminated,
    Event,
)
from swarm_coordinator.core.limits import RETRY_AFTER_MAX_MS, SLOTS_MAX, TIMEOUT_MAX_S
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.roster import network, view_of
from swarm_coordinator.core.state import AgentState, SwarmState
from swarm_coordinator.core.topology import next_parent, parent_of
from swarm_coordinator.core.views import PlanError

__all__ = [
    "add_agent",
    "agent_lost",
    "agent_refused",
    "agent_spawned",
    "attach",
    "drain",
    "terminate",
]


class _Given(msgspec.Struct, frozen=True):
    timeout: int | None = None
    weight: float = 1.0


class _Config(msgspec.Struct, frozen=True):
    timeout: int
    weight: float


def add_agent(
    state: SwarmState,
    *,
    agent: str,
    agent_type: str,
    name: str = "",
    capabilities: tuple[str, ...] = (),
    parent: str = "",
    config: msgspec.Raw = ABSENT,
    weight: float | None = None,
    external: bool = False,
    claim: str = "",
    now_ms: int,
) -> list[Event]:
    """An agent is asked for; ``claim`` is the hash of the token of an external one.

    ``timeout`` and ``weight`` are taken from ``config`` where it has them. In a hierarchy an agent
    without a parent gets the next free place, and keeps it.

    Raises:
        Refusal: ``resource limit`` above ``max_agents``; ``swarm destroyed``; ``params`` for a
            parent that does not exist or a name that is taken.
    """
    if state.status != "active":
        raise Refusal("swarm", "destroyed", "the swarm has ended", swarmId=state.swarm)
    here = [one for one in state.agents.values() if one.status != "terminated"]
    if len(here) >= state.config.max_agents:
        raise Refusal(
            "resource",
            "limit",
            f"the swarm has {len(here)} agents, of at most {state.config.max_agents}",
            limit=state.config.max_agents,
            inFlight=len(here),
            retryAfterMs=RETRY_AFTER_MAX_MS,
        )
    if agent in state.agents:
        return []
    if name and any(one.name == name for one in here):
        message = f"an agent of this swarm is called {name} already"
        raise Refusal("params", "name", message, where="/name")
    given = _config(config, state.config.agent_timeout)
    return [
        AgentAdded(
            at=now_ms,
            agent=agent,
            type=agent_type,
            name=name,
            capabilities=capabilities,
            parent=_parent(state, here, parent),
            config=config.copy() if bytes(config) else ABSENT,
            weight=given.weight if weight is None else float(weight),
            timeout_s=given.timeout,
            external=external,
            claim=claim,
        )
    ]


def _config(config: msgspec.Raw, timeout: int) -> _Config:
    try:
        given = msgspec.json.decode(config, type=_Given) if bytes(config) else _Given()
    except msgspec.MsgspecError as error:
        raise Refusal("params", "config", f"config: {error}", where="/config") from None
    timeout = timeout if given.timeout is None else given.timeout
    if not 1 <= timeout <= TIMEOUT_MAX_S:
        message = f"timeout must be 1..{TIMEOUT_MAX_S} s"
        raise Refusal("params", "range", message, where="/config/timeout")
    return _Config(timeout, given.weight)


def _parent(state: SwarmState, here: list[AgentState], wanted: str) -> str:
    if wanted:
        try:
            return parent_of(wanted, [view_of(one) for one in here])
        except PlanError as error:
            raise Refusal("params", "parent", error.message, where="/parent") from None
    if state.topology != "hierarchical":
        return ""
    # Those that are being spawned have their places too.
    return next_parent(network(state, spawning=True), state.config.fanout)


def agent_spawned(
    state: SwarmState, agent: str, host: str, spawned: Spawned, now_ms: int
) -> list[Event]:
    """Its process runs. Nothing if the agent is not ``spawning`` any more."""
    found = state.agents.get(agent)
    if found is None or found.status != "spawning" or found.host:
        return []
    slots = min(SLOTS_MAX, max(1, spawned.slots))
    return [AgentPlaced(at=now_ms, agent=agent, host=host, spawned=spawned, slots=slots)]


def agent_refused(
    state: SwarmState, agent: str, reason: str, message: str, now_ms: int
) -> list[Event]:
    """Nobody could start it: it is terminated."""
    found = state.agents.get(agent)
    if found is None or found.status != "spawning":
        return []
    why = f"{reason}: {message}" if message else reason
    return [AgentTerminated(at=now_ms, agent=agent, reason=why)]


def attach(state: SwarmState, host: str, attach: Attach, *, claim: str, now_ms: int) -> list[Event]:
    """An external process takes its place; ``claim`` is the hash of the token it showed.

    A repeat of the same ``boot`` from the same host gives nothing new. The epoch to answer with
    is that of the agent's state afterwards.

    Raises:
        Refusal: ``agent not_found`` for an unknown agent or a wrong claim (not told apart);
            ``agent terminated``.
    """
    found = state.agents.get(attach.agent)
    known = found is not None and found.external and found.claim and found.claim == claim
    if found is None or not known:
        gone = found is not None and found.external and found.status == "terminated"
        if gone and state.status == "active":
            message = "the agent has been terminated"
            raise Refusal("agent", "terminated", message, agentId=attach.agent)
        raise Refusal("agent", "not_found", "no such agent, or not your claim")
    if found.host == host and found.boot == attach.boot and found.status != "lost":
        return []
    first = not found.boot
    return [
        *losses(state, found, "its process began anew", now_ms),
        AgentAttached(
            at=now_ms,
            agent=found.id,
            host=host,
            boot=attach.boot,
            epoch=found.epoch if first else found.epoch + 1,
            capabilities=attach.capabilities,
            slots=min(SLOTS_MAX, max(1, attach.slots)),
            node=attach.node,
        ),
    ]


def agent_lost(state: SwarmState, agent: str, reason: str, now_ms: int) -> list[Event]:
    """No beat for ``LOST_MS``: its epoch is closed, its steps go back or fail."""
    found = state.agents.get(agent)
    if found is None or found.status not in ("active", "draining"):
        return []
    lost = losses(state, found, reason, now_ms)
    if found.status == "draining":
        return [*lost, AgentTerminated(at=now_ms, agent=agent, reason=reason)]
    return [*lost, AgentLost(at=now_ms, agent=agent, reason=reason)]


def _known(state: SwarmState, agent: str) -> AgentState:
    found = state.agents.get(agent)
    if found is None:
        raise Refusal("agent", "not_found", "there is no such agent", agentId=agent)
    return found


def drain(state: SwarmState, agent: str, reason: str, now_ms: int) -> list[Event]:
    """It takes nothing new, and is terminated once it has nothing left.

    Raises:
        Refusal: ``agent not_found``.
    """
    found = _known(state, agent)
    if found.status in ("terminated", "draining"):
        return []
    if not found.items or found.status != "active":
        return terminate(state, agent, reason, now_ms)
    return [AgentDraining(at=now_ms, agent=agent, reason=reason)]


def terminate(state: SwarmState, agent: str, reason: str, now_ms: int) -> list[Event]:
    """It is gone, or shall be: its steps go back or fail. Nothing if it has ended already.

    Raises:
        Refusal: ``agent not_found``.
    """
    found = _known(state, agent)
    if found.status == "terminated":
        return []
    return [
        *losses(state, found, reason or "it was terminated", now_ms),
        AgentTerminated(at=now_ms, agent=agent, reason=reason),
    ]
