"""The tools of machines, called over the bus as a gateway calls them."""

from typing import Any

import msgspec
import pytest

from mcp_proto import subjects
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import ErrorKind, MeshError
from vm_spawner.handlers import operations
from vm_spawner.handlers.admission import PERMISSION, Admission
from vm_spawner.handlers.tool_schemas import SPECS


async def call(spawner: Any, tool: str, **arguments: object) -> dict[str, Any]:
    body = msgspec.json.encode(
        {
            "jsonrpc": "2.0",
            "id": 7,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments},
        }
    )
    subject = subjects.call(spawner.tenant, "vm", tool)
    reply = await spawner.asker.request(subject, body, timeout_s=20.0)
    return msgspec.json.decode(reply.payload)


async def test_machine_lives_and_ends_by_its_tools(
    start_spawner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = await start_spawner(allow_unsigned=True)
    # The broker of this test must know the machine beforehand.
    monkeypatch.setattr(operations, "vm_id", lambda prefix, _random: f"{prefix}-tooled")
    spawner.links.know("mcp-agent-tooled")
    config = msgspec.json.decode(spawner.source("tooled"))
    made = await call(
        spawner,
        "vm_spawn",
        agent="tooled",
        program="agent",
        isolation="sandbox",
        resources={"cpuLimit": "500m", "memoryLimit": "256Mi"},
        config=config,
    )
    said = made["result"]["structuredContent"]
    assert (said["status"], said["isolation"], said["driver"]) == ("spawning",) + ("sandbox",) * 2
    assert said["estimatedReadyTime"] is None
    assert said["resources"]["cpu"] == 0.5
    assert said["resources"]["memory"] == "256Mi"
    assert said["resources"]["gpuDevice"] is None
    assert said["initialisationMetrics"] == {"spawnTime": None, "modelLoadTime": None}
    assert msgspec.json.decode(made["result"]["content"][0]["text"]) == said
    vm_id = said["vmId"]
    assert vm_id.startswith("mcp-agent-")
    record = await spawner.until(vm_id, "ready", "failed")
    assert record.observed.state == "ready", record.observed
    assert record.desired.owner.principal == "unsigned"

    status = (await call(spawner, "vm_status", vmId=vm_id))["result"]["structuredContent"]
    assert status["initialisationMetrics"]["spawnTime"] == record.observed.ready_ms
    assert status["usage"]["memoryBytes"] > 0
    listed = (await call(spawner, "vm_list"))["result"]["structuredContent"]
    assert [one["vmId"] for one in listed["machines"]] == [vm_id]
    logs = (await call(spawner, "vm_logs", vmId=vm_id))["result"]["structuredContent"]
    assert any("is ready" in line for line in logs["lines"])
    ended = (await call(spawner, "vm_stop", vmId=vm_id))["result"]["structuredContent"]
    assert (ended["status"], ended["code"]) == ("stopped", "asked")
    assert spawner.left() == []


async def test_refusal_is_a_result_that_a_model_can_read(start_spawner: Any) -> None:
    spawner = await start_spawner(allow_unsigned=True)
    answer = await call(spawner, "vm_spawn", program="agent", resources={"gpuAccess": True})
    assert answer["result"]["isError"] is True
    error = answer["result"]["structuredContent"]["error"]
    assert (error["code"], error["reason"], error["supported"]) == ("resource", "no_gpu", False)
    answer = await call(spawner, "vm_spawn", program="agent", isolation="vm")
    error = answer["result"]["structuredContent"]["error"]
    assert (error["reason"], error["min"]) == ("isolation", "vm")
    assert {one["driver"] for one in error["available"]} >= {"sandbox", "process"}


MISTAKES: tuple[tuple[str, dict[str, object]], ...] = (
    ("vm_status", {}),
    ("vm_status", {"vmId": 7}),
    ("vm_status", {"vmId": "nobody-1"}),
    ("vm_spawn", {"isolation": "strong"}),
    ("vm_spawn", {"resources": {"cpuLimit": "0m"}}),
    ("vm_reboot", {}),
)


async def test_mistake_of_a_caller_is_an_error(start_spawner: Any) -> None:
    spawner = await start_spawner(allow_unsigned=True)
    for tool, arguments in MISTAKES:
        answer = await call(spawner, tool, **arguments)
        assert answer["error"]["code"] == -32602, (tool, arguments)


async def test_call_without_a_signed_context_is_refused(start_spawner: Any) -> None:
    spawner = await start_spawner(allow_unsigned=False)
    answer = await call(spawner, "vm_list")
    assert answer["error"]["code"] == -31001


class _Verifier:
    def __init__(self, *permissions: str) -> None:
        self._permissions = permissions

    def verify(self, _token: str) -> CallerContext:
        return CallerContext(
            tid="acme", sub="ann", roles=(), exp=0, iss="g", perms=self._permissions
        )


class _Call:
    def __init__(self, tenant: str) -> None:
        self.subject = subjects.parse(subjects.call(tenant, "vm", "vm_list"))
        self.envelope = type("Envelope", (), {"context": "token"})()


def test_caller_needs_the_permission_and_the_tenant() -> None:
    admission = Admission(allow_unsigned=False)
    admission.use(_Verifier(PERMISSION))  # type: ignore[arg-type]
    assert admission.principal(_Call("acme")) == "ann"  # type: ignore[arg-type]
    with pytest.raises(MeshError) as caught:
        admission.principal(_Call("other"))  # type: ignore[arg-type]
    assert caught.value.kind is ErrorKind.DENIED
    admission.use(_Verifier("CallTools"))  # type: ignore[arg-type]
    with pytest.raises(MeshError) as caught:
        admission.principal(_Call("acme"))  # type: ignore[arg-type]
    assert PERMISSION in caught.value.message


def test_every_tool_needs_the_permission() -> None:
    assert {spec.permission for spec in SPECS} == {PERMISSION}
