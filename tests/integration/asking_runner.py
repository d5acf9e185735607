"""A real runner whose servers ask back, and somebody who calls it as a gateway does."""

import base64
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcp_proto import buckets, subjects
from mcp_proto.codec import encode_request
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import MeshError, Outcome
from mesh_chassis.bus.connection import Bus
from mesh_chassis.callerctx import ContextSigner, new_kek, new_signing_key
from mesh_chassis.clock import now_ms
from mesh_chassis.config import ServiceSection
from mesh_chassis.keyring import KeyRing
from mesh_chassis.service import Service
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from mesh_chassis.testing.provision import written_by
from registry.config import RegistryConfig
from registry.service import build as build_registry
from tool_runner.config import ParkingConfig, RunnerSection, ToolRunnerConfig
from tool_runner.service import build

TESTS = Path(__file__).parents[2] / "services" / "tool-runner" / "tests"
TENANT = "demo-tenant"
FORM = {"elicitation": {"form": {}}}
EVERYTHING = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}
YES = {"action": "accept", "content": {"ok": True}}
ASK = ["elicitation/create", {"message": "Sure?", "requestedSchema": {"type": "object"}}]


def curious(name: str = "curious", **fields: Any) -> ServerDefinition:
    return ServerDefinition(
        name=name, command=sys.executable, args=(str(TESTS / "curious_server.py"),), **fields
    )


class Gateway:
    """Calls a runner as a gateway does."""

    def __init__(self, bus: Bus, signer: ContextSigner) -> None:
        self.bus = bus
        self.signer = signer
        self.frames: list[Any] = []

    signs = True

    async def _send(
        self, subject: str, method: str, params: dict[str, Any], who: str, timeout_s: float
    ) -> dict[str, Any]:
        context = CallerContext(tid=TENANT, sub=who, roles=("User",), exp=0, iss="gateway-1")
        tenant = subjects.parse(subject).tenant
        context = msgspec.structs.replace(context, tid=tenant)
        token = self.signer.sign(context) if self.signs else ""
        envelope = RequestEnvelope(method=method, stream="1", context=token)
        payload = encode_request(method, secrets.token_hex(4), msgspec.json.encode(params))
        body = await self.bus.call(
            subject,
            payload,
            envelope=envelope,
            timeout_s=timeout_s,
            tenant=tenant,
            on_frame=lambda frame: self.frames.append(msgspec.json.decode(frame)),
        )
        return msgspec.json.decode(body)

    async def call(
        self,
        tool: str,
        *,
        declare: dict[str, Any] | None = None,
        who: str = "ann",
        server: str = "curious",
        tenant: str = TENANT,
        token: object = None,
        timeout_s: float = 5.0,
        responses: dict[str, Any] | None = None,
        state: str = "",
        **arguments: Any,
    ) -> dict[str, Any]:
        subject = subjects.call(tenant, server, tool)
        params = {"name": tool, "arguments": arguments, "_meta": meta(declare, token)}
        if responses is not None:
            params["inputResponses"] = responses
        if state:
            params["requestState"] = state
        return await self._send(subject, "tools/call", params, who, timeout_s)

    async def answer(
        self,
        first: dict[str, Any],
        responses: dict[str, Any],
        *,
        declare: dict[str, Any] | None = None,
        who: str = "ann",
        method: str = "tools/call",
        tenant: str = TENANT,
        token: object = None,
        timeout_s: float = 5.0,
    ) -> dict[str, Any]:
        result = first["result"]
        assert result["resultType"] == "input_required", first
        instance = result["_meta"]["mesh/parked"]["instance"]
        params = {
            "name": "any",
            "requestState": result["requestState"],
            "inputResponses": responses,
            "_meta": meta(EVERYTHING if declare is None else declare, token),
        }
        subject = subjects.instance(tenant, instance, "answer")
        return await self._send(subject, method, params, who, timeout_s)

    async def request(
        self, server: str, method: str, params: dict[str, Any], *, declare: dict[str, Any]
    ) -> dict[str, Any]:
        """Another method than ``tools/call``."""
        subject = subjects.rpc(TENANT, server, method)
        return await self._send(subject, method, {**params, "_meta": meta(declare)}, "ann", 5.0)

    async def seen(self) -> list[Any]:
        """What the server got for its questions."""
        return got(await self.call("seen", who="zoe"))[1:]


def meta(declare: dict[str, Any] | None, token: object = None) -> dict[str, Any]:
    members: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": declare or {},
    }
    return members if token is None else {**members, "progressToken": token}


def got(answer: dict[str, Any]) -> Any:
    assert answer["result"]["resultType"] == "complete", answer
    return msgspec.json.decode(answer["result"]["content"][0]["text"])


def questions(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer["result"]["resultType"] == "input_required", answer
    return answer["result"]["inputRequests"]


async def failure(awaitable: Awaitable[Any]) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await awaitable
    return caught.value


class Rig:
    def __init__(self, gateway: Gateway, service: Service) -> None:
        self.gateway = gateway
        self.service = service

    @property
    def parked(self) -> float:
        lines = self.service.metrics.text().decode().splitlines()
        line = next(one for one in lines if one.startswith("mesh_runner_parked_calls"))
        return float(line.rpartition(" ")[2])


@asynccontextmanager
async def closing(ring: KeyRing) -> AsyncIterator[KeyRing]:
    try:
        yield ring
    finally:
        await ring.close()


async def answers(gateway: Gateway, server: str) -> bool:
    try:
        await gateway.call("plain", server=server)
    except MeshError as error:
        if error.outcome is Outcome.NOT_EXECUTED:
            return False
        raise
    return True


@asynccontextmanager
async def gateway_alone(connect_bus: Any) -> AsyncIterator[Gateway]:
    """A gateway with signing keys, and a registry."""
    kek = base64.b64decode(new_kek())
    key = new_signing_key(kek, created_ms=now_ms(), use_from_ms=0)
    owner = await written_by(connect_bus, buckets.KEYS)
    await owner.put(f"sign.{key.kid}", msgspec.json.encode(key))
    registry = RegistryConfig(service=ServiceSection(instance="registry-1"))
    bus = await connect_bus("gateway", "gateway-1")
    async with (
        closing(await KeyRing.open(bus)) as ring,
        in_process(build_registry, registry, await connect_bus("registry", "registry-1")),
    ):
        yield Gateway(bus, ContextSigner(ring, kek))


@asynccontextmanager
async def asking_runner(
    connect_bus: Any, *servers: ServerDefinition, unsigned: bool = False, **parking: Any
) -> AsyncIterator[Rig]:
    """A runner with these servers (``curious`` by default), a registry and a gateway."""
    config = ToolRunnerConfig(
        service=ServiceSection(instance="runner-1"),
        runner=RunnerSection(toolsets=(), handover=False, allow_unsigned=unsigned),
        parking=ParkingConfig(**parking),
        mcp_servers=servers or (curious(),),
    )
    async with (
        gateway_alone(connect_bus) as gateway,
        in_process(build, config, await connect_bus("tool-runner", "runner-1")) as service,
    ):
        for server in config.mcp_servers:
            await eventually(lambda one=server: answers(gateway, one.name), timeout_s=10.0)
        yield Rig(gateway, service)
