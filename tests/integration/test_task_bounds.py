"""Bounds of tasks and idempotency keys that hold over all runners, on a real broker."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.integration.task_rig import task_runner
from tests.integration.test_idempotency import SERVER, TENANT, Mesh, Runner, Target, result

from mcp_proto import buckets
from mcp_proto.buckets import Bucket
from mcp_proto.contracts import tasks as contract
from mcp_proto.contracts.tasks import TaskCreate
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from tool_runner.config import IdempotencyConfig, RunnerSection, TasksConfig

pytestmark = pytest.mark.usefixtures("provision")

UNSIGNED = RunnerSection(toolsets=(), allow_unsigned=True)


def creates(tenant: str = TENANT, params: bytes = b'{"name":"x"}') -> TaskCreate:
    return TaskCreate(
        context="",
        tenant=tenant,
        principal="ann",
        server="nobody",
        tool="x",
        params=msgspec.Raw(params),
    )


async def made(bus: Bus, ask: TaskCreate) -> object:
    try:
        return await bus.operation(contract.create, ask, timeout_s=10)
    except MeshError as error:
        return error


async def test_two_runners_together_make_as_many_tasks_as_one_tenant_may(connect_bus) -> None:
    tables: dict[str, Any] = {"runner": UNSIGNED, "tasks": TasksConfig(per_tenant=5)}
    async with (
        task_runner(connect_bus, "runner-2", **tables),
        task_runner(connect_bus, "runner-3", **tables),
    ):
        bus = await connect_bus("gateway", "gateway-1")
        answers = await asyncio.gather(*(made(bus, creates()) for _ in range(24)))
        refused = [one for one in answers if isinstance(one, MeshError)]
        assert len(answers) - len(refused) == 5
        for error in refused:
            assert error.kind is ErrorKind.OVERLOADED
            assert error.outcome is Outcome.NOT_EXECUTED
            assert error.data["limit"] == 5
        # Another tenant has a bound of its own.
        assert not isinstance(await made(bus, creates("acme")), MeshError)


async def small(connect_bus, bucket: Bucket) -> None:
    sized = msgspec.structs.replace(bucket, bytes_max=1024 * 1024)
    await KV.ensure(await connect_bus("operator", "operator-1"), sized)


@pytest.mark.slow
async def test_a_full_store_of_tasks_is_said_and_nothing_has_run(broker, connect_bus) -> None:
    await small(connect_bus, buckets.TASKS)
    tables: dict[str, Any] = {"runner": UNSIGNED, "tasks": TasksConfig(per_tenant=100_000)}
    async with task_runner(connect_bus, "runner-2", **tables):
        bus = await connect_bus("gateway", "gateway-1")
        for _ in range(200):
            answers = await asyncio.gather(*(made(bus, creates()) for _ in range(20)))
            if any(isinstance(one, MeshError) for one in answers):
                break
        error = next(one for one in answers if isinstance(one, MeshError))
        assert error.code == -31016
        assert error.message == "the store of tasks is full"
        assert error.outcome is Outcome.NOT_EXECUTED


@pytest_asyncio.fixture
async def bounded(connect_bus, request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    target = Target()
    config = IdempotencyConfig(window_s=60, **request.param)
    names = ("runner-1", "runner-2")
    runners = [
        await Runner.start(await connect_bus("tool-runner", name), target, SERVER, config)
        for name in names
    ]
    yield Mesh(await connect_bus("gateway", "gateway-1"), target, runners)
    for runner in runners:
        await runner.stop()


@pytest.mark.parametrize("bounded", [{"per_tenant": 3}], indirect=True)
async def test_a_tenant_has_so_many_keys_and_its_repeats_are_served_at_the_limit(
    bounded: Mesh,
) -> None:
    async def keyed(at: int) -> object:
        try:
            return result(await bounded.call("run", f"k{at}"))
        except MeshError as error:
            return error

    answers = await asyncio.gather(*(keyed(at) for at in range(12)))
    kept = {at: one for at, one in enumerate(answers) if not isinstance(one, MeshError)}
    assert len(kept) == len(bounded.target.runs) == 3
    for error in (one for one in answers if isinstance(one, MeshError)):
        assert error.code == -31016
        assert error.outcome is Outcome.NOT_EXECUTED
    assert {at: await keyed(at) for at in kept} == kept
    assert result(await bounded.call("run", None))
    assert len(bounded.target.runs) == 4


@pytest.mark.parametrize("bounded", [{}], indirect=True)
async def test_a_full_store_of_keys_forgets_an_answer_but_not_that_the_call_ran(
    broker, connect_bus, bounded: Mesh
) -> None:
    await small(connect_bus, buckets.IDEMPOTENCY)
    first = result(await bounded.call("large", "a"))
    assert result(await bounded.call("large", "a")) == first
    # The second large one does not fit: its caller has it, its repeat learns that it ran.
    assert len(result(await bounded.call("large", "b"))) == len(first)
    again = msgspec.json.decode(await bounded.call("large", "b"))["error"]
    assert again["code"] == -31012
    assert again["data"]["outcome"] == "executed"
    assert len(bounded.target.runs) == 2
