"""A late loop leaves readiness and comes back; a hung one is reported from outside of it."""

import asyncio
import threading
import time

import pytest

from mesh_chassis import watchdog
from mesh_chassis.health import Health
from mesh_chassis.watchdog import REASON, LoopWatchdog


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TICK_S", 0.01)
    monkeypatch.setattr(watchdog, "THREAD_TICK_S", 0.05)
    monkeypatch.setattr(watchdog, "LAG_DEGRADED_S", 0.2)
    monkeypatch.setattr(watchdog, "RECOVER_S", 0.1)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody tells, so the test looks
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("quick")
async def test_a_blocked_loop_leaves_readiness_until_it_has_been_on_time() -> None:
    health = Health("x")
    hung = threading.Event()
    dog = LoopWatchdog(health, hung=hung.set, exit_s=5)
    task = asyncio.ensure_future(dog.run())
    await asyncio.sleep(0.05)
    assert health.ready
    time.sleep(0.4)  # noqa: ASYNC251 - the fault under test
    await until(lambda: not health.ready)
    assert health.reasons() == (REASON,)
    await until(lambda: health.ready)
    assert dog.lag_s < 0.2
    assert not hung.is_set()
    task.cancel()
    await asyncio.wait([task])
    await asyncio.to_thread(dog.join, 2.0)


@pytest.mark.usefixtures("quick")
async def test_a_hung_loop_is_reported_from_a_thread() -> None:
    hung = threading.Event()
    dog = LoopWatchdog(Health("x"), hung=hung.set, exit_s=0.3)
    task = asyncio.ensure_future(dog.run())
    await asyncio.sleep(0.05)
    assert hung.wait(3), "this blocks the loop, and the report comes nevertheless"
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.usefixtures("quick")
def test_a_stopped_process_is_not_taken_for_a_hung_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()
    dog = LoopWatchdog(Health("x"), hung=hung.set, exit_s=1)
    times = iter([100.0, 100.05, 700.0, 700.05, 700.1])
    monkeypatch.setattr(watchdog, "monotonic", lambda: next(times))
    waits = iter([False, False, False, False, True])
    monkeypatch.setattr(dog._stopping, "wait", lambda _: next(waits))
    dog._beat = 100.0
    dog._look()
    assert not hung.is_set()
