"""Idempotency keys across two runners on a real broker: one effect per key."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import subjects
from mcp_proto.codec import encode_request
from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.subjects import QUEUE
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Endpoint
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.conditions import eventually
from tool_runner.config import IdempotencyConfig
from tool_runner.handlers import Admission, ServerHandlers
from tool_runner.idempotency import Idempotency
from tool_runner.parking import Parking
from tool_runner.tasks.owners import Owners

pytestmark = pytest.mark.usefixtures("provision")

TENANT, SERVER = "demo-tenant", "job"
WINDOW = IdempotencyConfig(window_s=60)


NO_PARKING = cast("Parking", None)
"""The scripted server asks nobody back."""


class Target:
    """A server whose tools say how often they ran."""

    name, tenant, asks_back = SERVER, "_", False

    def __init__(self) -> None:
        self.runs: list[bytes] = []
        self.go = asyncio.Event()

    async def call(self, request) -> bytes | ErrorObject:
        self.runs.append(bytes(request.params))
        name = msgspec.json.decode(request.params)["name"]
        if name == "wait":
            await self.go.wait()
        if name == "refuses":
            raise MeshError(ErrorKind.UPSTREAM, "is down", outcome=Outcome.NOT_EXECUTED)
        if name == "breaks":
            raise MeshError(ErrorKind.UPSTREAM, "broke")
        if name == "asks" and b"requestState" not in bytes(request.params):
            return b'{"resultType":"input_required","requestState":"s"}'
        size = 700_000 if name == "large" else 1
        return b'{"resultType":"complete","n":%d,"x":"%b"}' % (len(self.runs), b"x" * size)


class Runner:
    """One runner in front of the shared server."""

    def __init__(self, bus: Bus, once: Idempotency, tasks: Tasks, endpoint: Endpoint) -> None:
        self.bus = bus
        self.once = once
        self.tasks = tasks
        self.endpoint = endpoint

    @classmethod
    async def start(
        cls,
        bus: Bus,
        target: Target,
        subject_server: str,
        config: IdempotencyConfig = WINDOW,
    ) -> "Runner":
        tasks = Tasks(bus.instance)
        once = await Idempotency.open(bus, Owners(bus), tasks, config)
        admission = Admission(allow_unsigned=True)
        admission.once = once
        endpoint = Endpoint(
            bus,
            subject=subjects.call(subjects.ANY, subject_server, subjects.ANY),
            queue=QUEUE,
            handler=ServerHandlers(target, admission, NO_PARKING).call,  # type: ignore[arg-type]
        )
        await endpoint.start()
        return cls(bus, once, tasks, endpoint)

    async def stop(self) -> None:
        if self.bus.connected:
            await self.endpoint.drain(1.0)
        await self.once.close()
        await self.tasks.close(1.0)


class Mesh:
    """Two runners; ``call`` picks the one."""

    def __init__(self, caller: Bus, target: Target, runners: list[Runner]) -> None:
        self.caller = caller
        self.target = target
        self.runners = runners

    async def call(
        self,
        tool: str,
        key: str | None = "k1",
        *,
        timeout_s: float = 5.0,
        state: bool = False,
        **arguments: object,
    ) -> bytes:
        params: dict[str, object] = {"name": tool, "arguments": arguments, "_meta": {"own": 1}}
        if key is not None:
            params["_meta"] = {IDEMPOTENCY_KEY: key, "own": 1}
        if state:
            params["requestState"] = "s"
        request_id = self.caller.new_request_id()
        return await self.caller.call(
            subjects.call(TENANT, SERVER, tool),
            encode_request("tools/call", request_id, msgspec.json.encode(params)),
            envelope=RequestEnvelope(method="tools/call", name=tool, request_id=request_id),
            timeout_s=timeout_s,
            tenant=TENANT,
        )


def result(body: bytes) -> bytes:
    return bytes(msgspec.json.decode(body, type=dict[str, msgspec.Raw])["result"])


@pytest_asyncio.fixture
async def mesh(broker, connect_bus) -> AsyncIterator[Mesh]:
    target = Target()
    runners = [
        await Runner.start(await connect_bus("tool-runner", name), target, SERVER)
        for name in ("runner-1", "runner-2")
    ]
    yield Mesh(await connect_bus("gateway", "gateway-1"), target, runners)
    for runner in runners:
        await runner.stop()


async def test_a_repeat_gets_the_stored_result_byte_for_byte(mesh: Mesh) -> None:
    first = result(await mesh.call("run", a=1, b=[2.5, "é"]))
    again = [result(await mesh.call("run", b=[2.5, "é"], a=1)) for _ in range(10)]
    assert set(again) == {first}
    assert len(mesh.target.runs) == 1


async def test_calls_without_a_key_or_with_another_one_run_each(mesh: Mesh) -> None:
    for key in (None, None, "a", "b"):
        await mesh.call("run", key)
    await mesh.call("other", "a")
    assert len(mesh.target.runs) == 5


async def test_repeats_attach_to_the_running_call_on_every_runner(mesh: Mesh) -> None:
    calls = [asyncio.create_task(mesh.call("wait")) for _ in range(8)]
    await eventually(lambda: bool(mesh.target.runs), timeout_s=3, what="the first call")
    await asyncio.sleep(0.2)
    mesh.target.go.set()
    assert len({result(one) for one in await asyncio.gather(*calls)}) == 1
    assert len(mesh.target.runs) == 1


async def test_a_caller_that_leaves_does_not_stop_what_its_repeat_asks_for(mesh: Mesh) -> None:
    first = asyncio.create_task(mesh.call("wait"))
    await eventually(lambda: bool(mesh.target.runs), timeout_s=3, what="the first call")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(mesh.call("wait"))
    mesh.target.go.set()
    assert b'"n":1' in result(await second)
    assert len(mesh.target.runs) == 1


async def test_another_call_under_the_same_key_is_refused(mesh: Mesh) -> None:
    await mesh.call("run", a=1)
    with pytest.raises(MeshError) as refused:
        await mesh.call("run", a=2)
    assert refused.value.code == -32602
    assert refused.value.outcome is Outcome.NOT_EXECUTED
    with pytest.raises(MeshError, match="must be a string"):
        await mesh.call("run", "x" * 129)
    assert len(mesh.target.runs) == 1


async def test_a_call_that_did_not_run_frees_its_key(mesh: Mesh) -> None:
    for _ in range(2):
        with pytest.raises(MeshError, match="is down"):
            await mesh.call("refuses")
    assert len(mesh.target.runs) == 2


async def test_a_call_that_may_have_run_keeps_its_error(mesh: Mesh) -> None:
    with pytest.raises(MeshError) as broken:
        await mesh.call("breaks")
    assert broken.value.outcome is Outcome.UNKNOWN
    again = msgspec.json.decode(await mesh.call("breaks"))
    assert again["error"]["data"]["outcome"] == "unknown"
    assert len(mesh.target.runs) == 1


async def test_a_repeat_too_early_says_that_the_first_call_still_runs(mesh: Mesh) -> None:
    first = asyncio.create_task(mesh.call("wait"))
    await eventually(lambda: bool(mesh.target.runs), timeout_s=3, what="the first call")
    with pytest.raises(MeshError) as late:
        await mesh.call("wait", timeout_s=0.5)
    assert late.value.kind is ErrorKind.DEADLINE
    mesh.target.go.set()
    await first


async def test_a_call_that_asks_goes_on_with_its_state_and_only_then(mesh: Mesh) -> None:
    asked = result(await mesh.call("asks"))
    assert result(await mesh.call("asks")) == asked
    assert len(mesh.target.runs) == 1
    final = result(await mesh.call("asks", state=True))
    assert b'"complete"' in final
    assert result(await mesh.call("asks")) == final
    assert len(mesh.target.runs) == 2


async def test_a_large_result_is_kept_too(mesh: Mesh) -> None:
    first = result(await mesh.call("large"))
    assert len(first) > 700_000
    assert result(await mesh.call("large")) == first
    assert len(mesh.target.runs) == 1


@pytest.mark.slow
async def test_a_dead_runner_makes_the_repeat_an_error_and_no_second_call(mesh: Mesh) -> None:
    call = asyncio.create_task(mesh.call("wait", timeout_s=2))
    await eventually(lambda: bool(mesh.target.runs), timeout_s=3, what="the first call")
    busy = next(one for one in mesh.runners if one.once._running)
    await busy.bus.link.close()
    with pytest.raises(MeshError):
        await call
    for _ in range(2):
        try:
            body = await mesh.call("wait", timeout_s=15)
        except MeshError as error:
            raise AssertionError("the record has the answer") from error
        error = msgspec.json.decode(body)["error"]
        assert error["code"] == -31010
        assert error["data"]["outcome"] == "unknown"
    assert len(mesh.target.runs) == 1
