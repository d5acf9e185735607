"""Events: sent by one agent, heard by others, shared by copies."""

import asyncio
from typing import Any

import msgspec
import pytest
from libs.mesh_sdk.tests.agent.rig import serve

from mesh_chassis.testing.conditions import eventually
from mesh_sdk.agent import Agent, Event

pytestmark = pytest.mark.usefixtures("shared_broker")


class Task(msgspec.Struct):
    number: int


async def test_event_reaches_whoever_subscribed_to_its_topic(shared_broker) -> None:
    heard: list[Any] = []
    listening, sending = Agent("listening"), Agent("sending")

    @listening.subscribe("tasks:new")
    async def typed(task: Task) -> None:
        heard.append(task)

    @listening.subscribe("tasks:*")
    def whole(event: Event) -> None:
        heard.append((event.topic, event.data, event.source))

    listening.subscribe("other", lambda value: heard.append(("other", value)))

    async with (
        serve(shared_broker, listening, "agent-1"),
        serve(shared_broker, sending, "agent-2"),
    ):
        await sending.publish("tasks:new", Task(1))
        await eventually(lambda: len(heard) == 2)
        assert Task(1) in heard
        assert ("tasks:new", {"number": 1}, "sending") in heard
        heard.clear()
        await sending.publish("tasks:new", {"number": "x"})
        await sending.publish("tasks:done", None)
        await sending.publish("other", 7)
        await eventually(lambda: len(heard) == 3)
        assert ("tasks:done", None, "sending") in heard
        assert ("other", 7) in heard


async def test_copies_share_events_unless_each_wants_them(shared_broker) -> None:
    shared: list[int] = []
    everywhere: list[int] = []

    def make() -> Agent:
        agent = Agent("copies")
        agent.subscribe("work", lambda value: shared.append(value))  # noqa: PLW0108
        agent.subscribe(
            "work",
            lambda value: everywhere.append(value),  # noqa: PLW0108
            every_copy=True,
        )
        return agent

    first, second = make(), make()
    async with serve(shared_broker, first, "agent-1"), serve(shared_broker, second, "agent-2"):
        for number in range(8):
            await first.publish("work", number)
        await eventually(lambda: len(everywhere) == 16 and len(shared) == 8)
        assert sorted(shared) == list(range(8))


async def test_failing_listener_does_not_end_its_subscription(shared_broker) -> None:
    agent, heard = Agent("fragile-listener"), asyncio.Event()

    @agent.subscribe("things")
    async def listen(value: int) -> None:
        if value == 1:
            raise RuntimeError("broken")
        heard.set()

    async with serve(shared_broker, agent):
        await agent.publish("things", 1)
        await agent.publish("things", 2)
        async with asyncio.timeout(5):
            await heard.wait()
