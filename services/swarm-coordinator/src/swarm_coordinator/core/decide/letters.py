"""Mail between agents, by the rules of the topology."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from mcp_proto.contracts.swarm import Mail
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.events import Event, MailDropped, MailSent, MailTaken
from swarm_coordinator.core.limits import MAIL_BYTES_MAX, MAIL_MS, MAIL_PER_AGENT_MAX
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.roster import network
from swarm_coordinator.core.state import AgentState, SwarmState
from swarm_coordinator.core.topology import broadcast, route

__all__ = ["mail", "mail_taken"]

EVERYBODY = "*"


def mail(
    state: SwarmState, sender: str, to: str, mail: Mail, now_ms: int, *, task: str = ""
) -> list[Event]:
    """A message to an agent or, with ``*``, to all. ``sender`` "" = the swarm's owner (a tool).

    Each ``MailSent.mail`` has its own number of hops.

    Raises:
        Refusal: ``swarm topology_violation``; ``agent not_found``; ``resource limit`` for a
            message over ``MAIL_BYTES_MAX``, or over the message budget of ``task``.
    """
    if state.status != "active":
        raise Refusal("swarm", "destroyed", "the swarm has ended", swarmId=state.swarm)
    if len(msgspec.json.encode(mail)) > MAIL_BYTES_MAX:
        message = f"a message takes at most {MAIL_BYTES_MAX} bytes"
        raise Refusal("resource", "limit", message, limit=MAIL_BYTES_MAX)
    hops = _broadcast(state, sender) if to == EVERYBODY else [_one(state, sender, to)]
    _check_budget(state, task, len(hops))
    return [
        event
        for receiver, passed in hops
        for event in _delivered(state.agents[receiver], passed, mail, task, now_ms)
    ]


def _one(state: SwarmState, sender: str, to: str) -> tuple[str, tuple[str, ...]]:
    agent = state.agents.get(to)
    if agent is None or agent.status == "terminated":
        raise Refusal("agent", "not_found", "there is no such agent", agentId=to)
    if not sender:
        return to, (">" + to,)
    if sender not in state.agents:
        raise Refusal("agent", "not_found", "the sender is no agent here", agentId=sender)
    passed = route(network(state), sender, to)
    if not passed:
        raise Refusal(
            "swarm",
            "topology_violation",
            f"in a {state.topology} swarm {sender} may not send to {to}",
            swarmId=state.swarm,
            sender=sender,
            receiver=to,
        )
    return to, tuple(f"{one}>{other}" for one, other in pairwise(passed))


def _broadcast(state: SwarmState, sender: str) -> list[tuple[str, tuple[str, ...]]]:
    """Receivers, each with the links on its way; a link is counted where it is first passed."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for hop in broadcast(network(state), sender):
        link = (f"{hop.sender}>{hop.receiver}",)
        if hop.receiver != sender:
            found.append((hop.receiver, (*link, *[""] * (hop.hops - 1))))
    if not found:
        raise Refusal("agent", "not_found", "nobody is there to hear it", swarmId=state.swarm)
    return found


def _check_budget(state: SwarmState, task: str, messages: int) -> None:
    found = state.tasks.get(task)
    if found is None or not found.spec.budget.messages:
        return
    used = found.spent.messages + state.agenda.admitted.get(task, 0)
    if used + messages > found.spec.budget.messages:
        raise Refusal(
            "resource",
            "limit",
            "the message budget of the task is used up",
            limit=found.spec.budget.messages,
            taskId=task,
        )


def _delivered(
    agent: AgentState, passed: tuple[str, ...], mail: Mail, task: str, now_ms: int
) -> list[Event]:
    params = mail.params.copy() if bytes(mail.params) else ABSENT
    sent = MailSent(
        at=now_ms,
        to=agent.id,
        mail=msgspec.structs.replace(mail, hops=len(passed), params=params),
        until_ms=now_ms + MAIL_MS,
        links=tuple(link for link in passed if link),
        task=task,
    )
    if len(agent.mailbox) < MAIL_PER_AGENT_MAX:
        return [sent]
    oldest = agent.mailbox[0].mail.id
    return [MailDropped(at=now_ms, agent=agent.id, ids=(oldest,), reason="full"), sent]


def mail_taken(state: SwarmState, agent: str, ids: Sequence[str], now_ms: int) -> list[Event]:
    """The host of an agent has them. Nothing for those that no longer wait."""
    found = state.agents.get(agent)
    wanted = frozenset(ids)
    taken = [held.mail.id for held in (found.mailbox if found else ()) if held.mail.id in wanted]
    return [MailTaken(at=now_ms, agent=agent, ids=tuple(taken))] if taken else []
