"""kill -9 of a runner, of a child, of a gateway, of the platform services."""

import asyncio
import os
import signal
import sys
import time

import pytest
from nats.aio.client import Client
from tests.chaos.acting import Counted, answered_within, call, holder, lab_child, serving
from tests.conftest import LAB
from tests.e2e import processes
from tests.e2e.processes import of_pid
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import lines, post_modern

pytestmark = pytest.mark.slow


def text(answer: object) -> str:
    return answer.json["result"]["content"][0]["text"]  # type: ignore[attr-defined]


async def test_child_killed_in_mid_call_is_an_error_at_once_and_is_replaced(
    mesh_pair: RunningMesh,
) -> None:
    base = mesh_pair.http
    pids = mesh_pair.pids
    _, child = holder(mesh_pair)
    pending = await Counted(mesh_pair).start(3, base, 20)
    killed = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    for answer in await asyncio.gather(*pending):
        error = answer.json["error"]
        assert error["code"] == -31017
        assert error["data"]["outcome"] == "unknown"
        assert "lab" in error["message"] + str(error["data"])
    assert time.monotonic() - killed < 0.5
    # Others on other servers are served meanwhile, and this one comes back.
    assert (await call(base, "echo", message=1)).status == 200
    took, answer = await answered_within(2.0, lambda: call(base, "lab__pid"))
    assert int(text(answer)) != child.pid
    assert time.monotonic() - killed < 2.5, took
    assert mesh_pair.pids == pids


async def test_child_that_ends_itself_is_an_error_with_outcome_and_is_replaced(
    mesh_pair: RunningMesh,
) -> None:
    began = time.monotonic()
    answer = await call(mesh_pair.http, "lab__crash")
    assert time.monotonic() - began < 1.0
    assert answer.json["error"]["code"] == -31017
    assert answer.json["error"]["data"]["outcome"] == "unknown"
    await answered_within(5.0, lambda: call(mesh_pair.http, "lab__pid"))


async def test_runner_killed_leaves_no_child_and_the_other_one_takes_over(
    mesh_pair: RunningMesh, operator: Client
) -> None:
    base = mesh_pair.http
    runner, child = holder(mesh_pair)
    other = "runner-2" if runner == "runner-1" else "runner-1"
    grandchild = of_pid(int(text(await call(base, "lab__fork"))))
    assert grandchild is not None
    below = mesh_pair.children_of(runner)
    assert {child, grandchild} <= below

    (pending,) = await Counted(mesh_pair).start(1, base, 20)
    old = mesh_pair.kill(runner)
    killed = time.monotonic()

    lost = (await pending).json["error"]
    assert lost["data"]["outcome"] == "unknown"
    assert time.monotonic() - killed < 3.0
    # Native tools do not wait for any of it.
    assert (await call(base, "echo", message=1)).json["result"]

    _, answer = await answered_within(5.0, lambda: call(base, "lab__pid"))
    assert time.monotonic() - killed < 5.0
    assert int(text(answer)) != child.pid
    assert not await asyncio.to_thread(processes.gone, below, 3.0)

    mesh_pair.await_restart(runner, old)
    await serving(mesh_pair, operator, runner, 10)
    holders = [one for one in (runner, other) if lab_child(mesh_pair, one)]
    assert len(holders) == 1, "one server, one process"


async def test_gateway_killed_in_mid_call_costs_its_own_connections_only(
    mesh_pair: RunningMesh, operator: Client
) -> None:
    _, other = mesh_pair.urls
    counted = Counted(mesh_pair)

    async def one_call(number: int) -> str:
        arguments = {"label": f"g{number}", "seconds": 3}
        try:
            async with lines(mesh_pair.lines[0]) as peer:
                answer = await peer.request(
                    "tools/call", {"name": "lab__count", "arguments": arguments}
                )
                return str(answer)
        except (EOFError, ConnectionError):
            return "closed"

    calls = [asyncio.create_task(one_call(number)) for number in range(10)]
    await counted.reach(10)
    old = mesh_pair.kill("gateway-1")
    killed = time.monotonic()
    assert set(await asyncio.gather(*calls)) == {"closed"}
    assert time.monotonic() - killed < 1.0
    assert (await call(other, "lab__echo", text="x")).json["result"]
    # Nobody repeated what may have run.
    assert counted.begun == 10
    mesh_pair.await_restart("gateway-1", old)
    await serving(mesh_pair, operator, "gateway-1", 5)
    assert (await call(mesh_pair.http, "lab__echo", text="x")).json["result"]


@pytest.mark.parametrize("instance", ["registry-1", "tenant-auth-1"])
async def test_platform_service_killed_costs_no_call_and_no_list(
    mesh_pair: RunningMesh, operator: Client, instance: str
) -> None:
    old = mesh_pair.kill(instance)
    back = asyncio.create_task(asyncio.to_thread(mesh_pair.await_restart, instance, old))
    while not back.done():
        for base in mesh_pair.urls:
            for answer in (
                await call(base, "echo", message=1),
                await call(base, "lab__echo", text="x"),
                await post_modern(base, "tools/list"),
            ):
                assert "result" in answer.json, answer
        await asyncio.sleep(0.01)
    await back
    await serving(mesh_pair, operator, instance, 10)


@pytest.mark.slow
async def test_child_that_hangs_ends_calls_at_their_limit_and_is_replaced(
    mesh_pair: RunningMesh,
) -> None:
    base = mesh_pair.http
    add = ("server", "add", "patient", "--call-timeout", "2s", "--")
    mesh_pair.mesh(*add, sys.executable, str(LAB), "unused")
    try:
        first = int(text(await call(base, "patient__pid")))
        child = of_pid(first)
        assert child is not None
        os.kill(first, signal.SIGSTOP)
        began = time.monotonic()
        late = (await call(base, "patient__pid")).json["error"]
        assert time.monotonic() - began < 3.0
        assert (late["code"], late["data"]["outcome"]) == (-31014, "unknown")
        for tool in ("echo", "lab__echo"):
            assert (await call(base, tool)).json["result"]
        _, answer = await answered_within(12.0, lambda: call(base, "patient__pid"))
        assert int(text(answer)) != first
        assert not await asyncio.to_thread(processes.gone, [child], 5.0)
    finally:
        mesh_pair.mesh("server", "remove", "patient")
