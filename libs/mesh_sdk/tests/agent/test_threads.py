"""Plain functions in threads: results, errors, bounds, and one that never returns."""

import asyncio
import threading

import pytest

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.testing.conditions import eventually
from mesh_sdk.agent.threads import Threads


async def test_function_runs_in_another_thread_and_gives_its_result() -> None:
    pool = Threads(2, "probe")
    assert await pool.run(threading.get_ident) != threading.get_ident()
    pool.close()


async def test_error_of_a_function_reaches_whoever_waits() -> None:
    pool = Threads(1, "probe")

    def broken() -> None:
        raise KeyError("x")

    def ending() -> None:
        raise SystemExit(3)

    with pytest.raises(KeyError):
        await pool.run(broken)
    with pytest.raises(RuntimeError, match="SystemExit"):
        await pool.run(ending)
    assert await pool.run(lambda: 7) == 7
    pool.close()


async def test_pool_refuses_at_once_when_as_many_run_as_may() -> None:
    pool, release = Threads(2, "probe"), threading.Event()
    running = [asyncio.ensure_future(pool.run(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(MeshError) as caught:
        await pool.run(lambda: 1)
    assert caught.value.kind is ErrorKind.OVERLOADED
    release.set()
    assert await asyncio.gather(*running) == [True, True]
    assert await pool.run(lambda: 1) == 1
    pool.close()


async def test_function_that_never_returns_costs_its_own_place_only() -> None:
    pool, release, began = Threads(1, "probe"), threading.Event(), threading.Event()

    def stuck() -> None:
        began.set()
        release.wait()

    waiting = asyncio.ensure_future(pool.run(stuck))
    await asyncio.to_thread(began.wait, 5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.stuck == 1
    assert await pool.run(lambda: 5) == 5
    release.set()
    await eventually(lambda: pool.stuck == 0)
    assert [await pool.run(lambda n=n: n) for n in range(5)] == list(range(5))
    pool.close()
