"""Messages to agents: kept until they are taken, or delivered now."""

import asyncio
from typing import Literal

import msgspec

from mcp_proto.contracts.swarm import Commanded, Mail
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core import decide
from swarm_coordinator.core.events import Event, MailSent, MailTaken
from swarm_coordinator.core.limits import MAIL_BYTES_MAX
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.handlers.agent_spawning import all_started
from swarm_coordinator.handlers.agent_views import living
from swarm_coordinator.handlers.finding import agent_in
from swarm_coordinator.handlers.ports import Caller, Owner
from swarm_coordinator.handlers.toolset import Answer

__all__ = ["send"]

EVERYBODY = "*"
DELIVERY_S = 0.7
"""Longest wait for a delivery without a reply: earlier clients want an answer in a second."""
LOOK_S = 0.1
"""So long it is looked whether a kept message is taken; the answer then says so."""
LOOK_EVERY_S = 0.01
REPLY_S = 30.0
"""Wait for a reply where the call says no other."""
ANSWER_S = 0.2

Status = Literal["queued", "delivered", "replied", "undeliverable"]


class _Message(msgspec.Struct, frozen=True):
    type: str
    action: str | None = None
    params: msgspec.Raw = ABSENT


class _Send(msgspec.Struct, frozen=True, rename="camel"):
    agent_id: str
    message: _Message
    sender: str | None = msgspec.field(name="from", default=None)
    expect_reply: bool = False
    timeout_ms: int | None = None
    delivery: Literal["durable", "core"] = "durable"


class _Recipient(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    agent_id: str
    status: Status
    hops: int
    reason: str | None = None


class _Sent(Answer, frozen=True, kw_only=True):
    message_id: str
    swarm_id: str
    status: Status
    reply: msgspec.Raw | None
    hops: int
    reason: str | None
    recipients: tuple[_Recipient, ...]


_SEND = msgspec.json.Decoder(_Send)


async def send(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    """``agent_message``."""
    asked = _SEND.decode(arguments)
    state = owner.state
    to = EVERYBODY if asked.agent_id == EVERYBODY else agent_in(state, asked.agent_id).id
    sender = agent_in(state, asked.sender).id if asked.sender else ""
    warnings: tuple[str, ...] = ()
    if asked.expect_reply and to == EVERYBODY:
        asked = msgspec.structs.replace(asked, expect_reply=False)
        warnings = ("expectReply was ignored: a message to all has no single reply",)
    mail = Mail(
        id=owner.new_id("msg"),
        sender=sender,
        type=asked.message.type,
        action=asked.message.action or "",
        params=asked.message.params,
        expect_reply=asked.expect_reply,
        timeout_ms=_wait_ms(asked, owner, caller) if asked.expect_reply else 0,
    )
    if memoryview(mail.params).nbytes > MAIL_BYTES_MAX:
        raise Refusal(
            *("resource", "limit", f"a message holds at most {MAIL_BYTES_MAX} bytes"),
            limit=MAIL_BYTES_MAX,
        )
    try:
        events = decide.mail(state, sender, to, mail, owner.now_ms())
    except Refusal:
        if not await all_started(owner):
            raise
        events = decide.mail(owner.state, sender, to, mail, owner.now_ms())
    sent = _Sent(
        message_id=mail.id,
        swarm_id=state.swarm,
        status="queued",
        reply=None,
        hops=0,
        reason=None,
        recipients=(),
        warnings=warnings,
    )
    if asked.delivery == "core" or asked.expect_reply:
        return await _now(owner, events, sent)
    return await _kept(owner, events, sent)


async def _kept(owner: Owner, events: list[Event], sent: _Sent) -> _Sent:
    """Into the log; it is delivered from there, and again until it is taken."""
    mails = [event for event in events if isinstance(event, MailSent)]
    if not mails:
        raise Refusal("agent", "not_found", "the swarm has no agent that could get it")
    await owner.commit(events)
    waiting = await _looked(owner, mails)
    recipients = tuple(
        _Recipient(
            agent_id=one.to,
            status="queued" if one.to in waiting else "delivered",
            hops=one.mail.hops,
        )
        for one in mails
    )
    return _of(sent, recipients)


async def _looked(owner: Owner, mails: list[MailSent]) -> set[str]:
    """Agents whose host has not taken their message a moment later."""
    until = owner.monotonic() + LOOK_S
    while True:
        waiting = {one.to for one in mails if _waits(owner, one)}
        if not waiting or owner.monotonic() >= until:
            return waiting
        await asyncio.sleep(LOOK_EVERY_S)


def _waits(owner: Owner, sent: MailSent) -> bool:
    agent = owner.state.agents.get(sent.to)
    return agent is not None and any(one.mail.id == sent.mail.id for one in agent.mailbox)


async def _now(owner: Owner, events: list[Event], sent: _Sent) -> _Sent:
    """To those who live; what cannot be delivered is said, and nothing is kept."""
    mails = [event for event in events if isinstance(event, MailSent)]
    if not mails:
        raise Refusal("agent", "not_found", "the swarm has no agent that could get it")
    found = await asyncio.gather(*(_deliver(owner, one) for one in mails))
    await _count(owner, mails, {one.agent_id for one, _ in found if one.status in _ARRIVED})
    sent = _of(sent, tuple(recipient for recipient, _ in found))
    reply = found[0][1]
    return msgspec.structs.replace(sent, reply=reply if memoryview(reply).nbytes else None)


async def _count(owner: Owner, mails: list[MailSent], arrived: set[str]) -> None:
    """What was delivered goes over links too; they are counted in the log."""
    now_ms = owner.now_ms()
    events: list[Event] = []
    for one in mails:
        if one.to in arrived and one.to in owner.state.agents:
            events += (one, MailTaken(at=now_ms, agent=one.to, ids=(one.mail.id,)))
    if events:
        await owner.commit(events)


async def _deliver(owner: Owner, sent: MailSent) -> tuple[_Recipient, msgspec.Raw]:
    wait_s = sent.mail.timeout_ms / 1000 if sent.mail.timeout_ms else DELIVERY_S
    agent = owner.state.agents.get(sent.to)
    if agent is None or agent not in living(owner.state) or not agent.host:
        return _undeliverable(sent, "it does not run"), ABSENT
    try:
        answer = await owner.deliver(sent.to, sent.mail, wait_s)
    except MeshError as error:
        if error.kind not in {ErrorKind.NO_RUNNER, ErrorKind.DEADLINE, ErrorKind.LOST}:
            raise
        return _undeliverable(sent, error.message), ABSENT
    status = _status(answer)
    if status == "undeliverable":
        return _undeliverable(sent, answer.message or "its host could not deliver it"), ABSENT
    recipient = _Recipient(agent_id=sent.to, status=status, hops=sent.mail.hops)
    return recipient, answer.reply


def _status(answer: Commanded) -> Status:
    if not answer.known:
        return "undeliverable"
    if answer.mail == "replied":
        return "replied"
    return "delivered" if answer.mail == "delivered" else "undeliverable"


def _undeliverable(sent: MailSent, reason: str) -> _Recipient:
    return _Recipient(agent_id=sent.to, status="undeliverable", hops=sent.mail.hops, reason=reason)


def _of(sent: _Sent, recipients: tuple[_Recipient, ...]) -> _Sent:
    """The answer for all: the worst that happened, the longest way."""
    worst = next(
        (one for status in _WORST_FIRST for one in recipients if one.status == status),
        recipients[0],
    )
    return msgspec.structs.replace(
        sent,
        status=worst.status,
        hops=max(one.hops for one in recipients),
        reason=worst.reason,
        recipients=recipients,
    )


_ARRIVED = frozenset(("delivered", "replied"))
_WORST_FIRST: tuple[Status, ...] = ("undeliverable", "queued", "delivered", "replied")


def _wait_ms(asked: _Send, owner: Owner, caller: Caller) -> int:
    left_s = max(0.05, caller.deadline_s - owner.monotonic() - ANSWER_S)
    return int(min(asked.timeout_ms or REPLY_S * 1000, left_s * 1000))
