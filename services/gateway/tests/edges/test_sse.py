"""Tests of gateway.edges.sse: the late choice, and the stream itself."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.edges import sse
from gateway.edges.sse import EventStream, LateReply, LateStarts
from mesh_chassis.testing.conditions import eventually


class Sent:
    """What an ASGI server was told."""

    def __init__(self) -> None:
        self.messages: list[Mapping[str, Any]] = []
        self.arrived = asyncio.Event()
        self.slow: asyncio.Event | None = None

    async def __call__(self, message: Mapping[str, Any]) -> None:
        if self.slow is not None:
            await self.slow.wait()
        self.messages.append(message)
        self.arrived.set()

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def body(self) -> bytes:
        return b"".join(one.get("body", b"") for one in self.messages[1:])

    @property
    def kind(self) -> bytes:
        return dict(self.messages[0]["headers"])[b"content-type"]


async def test_without_a_notification_the_answer_is_json_with_its_status() -> None:
    sent = Sent()
    reply = LateReply(LateStarts(), sent, streams=True, headers=((b"vary", b"origin"),))
    reply.add_header(b"x", b"y")
    await reply.finish(404, b"{}")
    assert (sent.status, sent.kind, sent.body) == (404, b"application/json", b"{}")
    assert (b"x", b"y") in sent.messages[0]["headers"]


async def test_a_notification_makes_it_a_stream_that_ends_with_the_answer() -> None:
    sent = Sent()
    reply = LateReply(LateStarts(), sent, streams=True)
    reply.notice(b'{"n":\n1}')
    await reply.finish(404, b"{}")
    assert (sent.status, sent.kind) == (200, b"text/event-stream")
    assert sent.body == b'event: message\ndata: {"n": 1}\n\nevent: message\ndata: {}\n\n'
    assert not sent.messages[-1].get("more_body")


async def test_a_client_that_takes_no_stream_gets_no_notifications() -> None:
    sent = Sent()
    reply = LateReply(LateStarts(), sent, streams=False)
    reply.notice(b"{}")
    await reply.finish(200, b"[]")
    assert (sent.kind, sent.body) == (b"application/json", b"[]")


async def test_a_long_wait_makes_it_a_stream_with_comments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.02)
    sent = Sent()
    reply = LateReply(LateStarts(), sent, streams=True)
    async with asyncio.timeout(2):
        while b": keep-alive" not in sent.body:
            sent.arrived.clear()
            await sent.arrived.wait()
    await reply.finish(200, b"{}")
    assert sent.body.endswith(b"data: {}\n\n")


async def test_an_abandoned_answer_sends_nothing_more() -> None:
    sent = Sent()
    sent.slow = asyncio.Event()
    reply = LateReply(LateStarts(), sent, streams=True)
    reply.notice(b"{}")
    await reply.abandon()
    assert sent.messages == []


async def test_a_flood_is_dropped_but_what_must_arrive_does() -> None:
    sent = Sent()
    stream = EventStream(sent)
    for _ in range(sse.QUEUED_MAX * 3):
        stream.push(b"{}")
    stream.push(b'"last"', must=True)
    stream.end()
    stream.push(b'"too late"', must=True)
    await stream.run()
    assert sent.body.count(b"data:") == sse.QUEUED_MAX + 1
    assert sent.body.endswith(b'data: "last"\n\n')


async def test_a_stream_ends_when_its_check_says_so() -> None:
    stream = EventStream(Sent())
    answers = [True, False]

    async def check() -> bool:
        return answers.pop(0)

    stream.wake()
    running = asyncio.ensure_future(stream.run(check))
    await eventually(lambda: len(answers) == 1)
    stream.wake()
    await asyncio.wait_for(running, 1)
