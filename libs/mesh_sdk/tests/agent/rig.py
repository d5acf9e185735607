"""An agent on a real broker, called by a plain NATS client of its tenant."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ServiceSection
from mesh_chassis.health import Health
from mesh_chassis.metrics import Metrics
from mesh_chassis.service import Service
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.fixtures import bus_config
from mesh_sdk.agent import Agent
from mesh_sdk.agent.config import AgentConfig, AgentSection
from mesh_sdk.agent.process import Live, attach

__all__ = ["DEMO", "Frames", "ask", "call", "client", "serve"]

DEMO = "demo-tenant"


@asynccontextmanager
async def serve(
    broker: Broker, agent: Agent, instance: str = "agent-1", **limits: int
) -> AsyncGenerator[Live, None]:
    """Serve an agent without a registry: nobody but its callers knows it."""
    section = AgentSection(tenant=DEMO, allow_unsigned=True, **limits)
    config = AgentConfig(
        service=ServiceSection(instance=instance),
        agent=section,
        bus=bus_config(broker, "agent", instance),
    )
    bus = await Bus.connect(config.bus, service="agent", instance=instance)
    service = Service(
        name="agent",
        version="0",
        instance=instance,
        bus=bus,
        tasks=Tasks(instance),
        health=Health("agent"),
        metrics=Metrics("agent", "0", instance),
    )
    try:
        live = await attach(service, config, agent.described())
        agent._live = live
        await service.start()
        yield live
        await service.drain(accept_s=0.0, drain_s=5.0)
    finally:
        agent._live = None
        await service.stop()


@asynccontextmanager
async def client(broker: Broker) -> AsyncGenerator[Client, None]:
    """A plain client of the demo tenant."""
    nc = await nats.connect(broker.url, nkeys_seed=broker.seed_for("client", DEMO))
    try:
        yield nc
    finally:
        await nc.close()


async def ask(nc: Client, subject: str, params: object, **headers: str) -> dict[str, Any]:
    """The JSON-RPC response to a request on ``mesh.v1.demo-tenant.{subject}``."""
    reply = await nc.request(
        f"mesh.v1.{DEMO}.{subject}", msgspec.json.encode(params), timeout=5, headers=headers or None
    )
    return msgspec.json.decode(reply.data)


async def call(nc: Client, agent: str, tool: str, **arguments: object) -> dict[str, Any]:
    """The result of a tool call."""
    answer = await ask(nc, f"call.{agent}.{tool}", {"arguments": arguments})
    assert "result" in answer, answer
    return answer["result"]


class Frames:
    """The frames of one call: notifications, and the response at the end."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = {}

    @classmethod
    async def of(
        cls, nc: Client, subject: str, params: object, timeout_s: float = 5.0, **headers: str
    ) -> "Frames":
        """Make a call with frames."""
        made = cls()
        inbox = nc.new_inbox()
        subscription = await nc.subscribe(inbox)
        await nc.publish(
            f"mesh.v1.{DEMO}.{subject}",
            msgspec.json.encode(params),
            reply=inbox,
            headers={"Mesh-Stream": "1", **headers},
        )
        while not made.answer:
            made._take(await subscription.next_msg(timeout_s))
        await subscription.unsubscribe()
        return made

    def _take(self, message: Msg) -> None:
        kind = (message.headers or {}).get("Mesh-Frame", "")
        if kind == "msg":
            self.notes.append(msgspec.json.decode(message.data))
        elif kind in ("end", "err"):
            self.answer = msgspec.json.decode(message.data)
