"""Tasks of legacy servers that ask back, and tasks that outlive their submitter's context."""

import asyncio
import functools
import secrets
from typing import Any

import msgspec
import pytest
from tests.integration.asking_runner import FORM, TENANT, YES, Rig, asking_runner, failure, meta

from mcp_proto import buckets, subjects
from mcp_proto.codec import encode_request
from mcp_proto.contracts import tasks as contract
from mcp_proto.contracts.tasks import TaskCancel, TaskCreate, TaskRecord, TaskUpdate, record_key
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind
from mesh_chassis.bucket import KV
from mesh_chassis.callerctx import ContextSigner
from mesh_chassis.clock import now_ms
from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.usefixtures("broker")


@pytest.fixture
def start(connect_bus: Any) -> Any:
    return functools.partial(asking_runner, connect_bus)


class Submitter:
    """Makes tasks of calls to the curious server."""

    def __init__(self, rig: Rig) -> None:
        self._gateway = rig.gateway
        context = CallerContext(tid=TENANT, sub="ann", roles=("User",), exp=0, iss="gateway-1")
        token = rig.gateway.signer.sign(context)
        self.whose = {"context": token, "tenant": TENANT, "principal": "ann"}
        self._kv = KV.bind(rig.gateway.bus, buckets.TASKS)

    async def create(self, ttl_ms: int, declare: dict[str, Any] | None = None) -> TaskRecord:
        declared = meta(FORM if declare is None else declare)
        params = {"name": "wizard", "arguments": {"n": 1}, "_meta": declared}
        ask = TaskCreate(
            **self.whose,
            server="curious",
            tool="wizard",
            params=msgspec.Raw(msgspec.json.encode(params)),
            ttl_ms=ttl_ms,
        )
        return await self._gateway.bus.operation(contract.create, ask, timeout_s=5)

    async def until(self, task: TaskRecord, *statuses: str) -> TaskRecord:
        async with asyncio.timeout(8):
            while True:
                entry = await self._kv.get(record_key(TENANT, "ann", task.id))
                assert entry is not None
                found = msgspec.json.decode(entry.value, type=TaskRecord)
                if found.status in statuses:
                    return found
                await asyncio.sleep(0.02)

    async def answer(self, task: TaskRecord) -> None:
        assert task.held is not None
        responses = {key: msgspec.Raw(msgspec.json.encode(YES)) for key in task.held.requests}
        ask = TaskUpdate(**self.whose, id=task.id, responses=responses)
        await self._gateway.bus.operation(contract.update, ask, timeout_s=5)

    async def cancel(self, task: TaskRecord) -> None:
        ask = TaskCancel(**self.whose, id=task.id)
        await self._gateway.bus.operation(contract.cancel, ask, timeout_s=5)


async def test_a_task_waits_for_people_longer_than_an_ordinary_call(start) -> None:
    async with start(ttl_s=0.3) as rig:
        ann = Submitter(rig)
        task = await ann.until(await ann.create(60_000), "input_required")
        ordinary = await rig.gateway.call("wizard", declare=FORM)
        assert ordinary["result"]["resultType"] == "input_required"
        assert rig.parked == 2
        await eventually(lambda: rig.parked == 1, timeout_s=5)  # the ordinary one is over
        await ann.answer(task)
        done = await ann.until(task, "completed", "failed")
        assert done.status == "completed"
        assert rig.parked == 0


@pytest.mark.slow
async def test_a_parked_call_ends_with_the_time_of_its_task(start) -> None:
    async with start(ttl_s=300) as rig:
        ann = Submitter(rig)
        await ann.until(await ann.create(3_000), "input_required")
        assert rig.parked == 1
        await eventually(lambda: rig.parked == 0, timeout_s=6)


async def test_a_cancelled_task_frees_its_parked_call_at_once(start) -> None:
    async with start() as rig:
        ann = Submitter(rig)
        task = await ann.until(await ann.create(600_000), "input_required")
        assert rig.parked == 1
        await ann.cancel(task)
        await eventually(lambda: rig.parked == 0, timeout_s=5)
        assert (await ann.until(task, "cancelled")).held is None


async def test_parked_calls_of_tasks_count_in_the_bounds(start) -> None:
    async with start(calls_per_tenant=1) as rig:
        ann = Submitter(rig)
        await ann.until(await ann.create(60_000), "input_required")
        over = await ann.until(await ann.create(60_000), "completed", "failed")
        assert rig.parked == 1
        assert b"too many calls of this tenant" in bytes(over.result)


class Late:
    """A runner that follows a server's task after the submitter's five minutes are over."""

    def __init__(self, rig: Rig) -> None:
        self._bus = rig.gateway.bus
        fresh = rig.gateway.signer
        signer = ContextSigner(fresh._ring, fresh._kek, clock_ms=lambda: now_ms() - 400_000)
        context = CallerContext(tid=TENANT, sub="ann", roles=("User",), exp=0, iss="gateway-1")
        self._token = signer.sign(context)

    async def get(self, upstream: str, *, task: str = "", server: str = "curious") -> bytes:
        envelope = _Named(
            method="tasks/get", name=upstream, context=self._token, task=task, request_id=_id()
        )
        params = msgspec.json.encode({"taskId": upstream, "_meta": meta(None)})
        return await self._bus.call(
            subjects.rpc(TENANT, server, "tasks/get"),
            encode_request("tasks/get", "1", params),
            envelope=envelope,
            timeout_s=5.0,
            tenant=TENANT,
        )


class _Named(RequestEnvelope, frozen=True, kw_only=True):
    task: str = ""

    def to_headers(self) -> dict[str, str]:
        headers = RequestEnvelope.to_headers(self)
        return {**headers, Header.TASK: self.task} if self.task else headers


def _id() -> str:
    return secrets.token_hex(13)


async def test_the_record_is_the_right_to_follow_a_task_whose_submitters_context_expired(
    start, connect_bus
) -> None:
    async with start() as rig:
        ann = Submitter(rig)
        task = await ann.until(await ann.create(600_000), "input_required")
        followed = msgspec.structs.replace(task, upstream="up-1", status="working")
        owner = KV.bind(await connect_bus("tool-runner", "runner-9"), buckets.TASKS)
        await owner.put(record_key(TENANT, "ann", task.id), msgspec.json.encode(followed), ttl_s=60)
        late = Late(rig)

        async def refusal(upstream: str, **named: str) -> ErrorKind:
            return (await failure(late.get(upstream, **named))).kind

        # Without the record's word an expired context is what it is.
        assert await refusal("up-1") is ErrorKind.UNAUTHENTICATED
        assert await refusal("up-1", task="task_0_unknown") is ErrorKind.UNAUTHENTICATED
        assert await refusal("up-2", task=task.id) is ErrorKind.UNAUTHENTICATED
        # With it the request reaches the server, which is a legacy one and has no such task.
        answer = msgspec.json.decode(await late.get("up-1", task=task.id))
        assert answer["error"]["code"] == -32601
