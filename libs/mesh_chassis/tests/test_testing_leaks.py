import asyncio
import subprocess

import pytest

from mesh_chassis.testing.clock import FakeClock
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.leaks import children, leaked_children, leaked_tasks


async def test_task_that_goes_on_is_named() -> None:
    before = frozenset(asyncio.all_tasks())
    task = asyncio.create_task(asyncio.sleep(60), name="forgotten")
    left = await leaked_tasks(before)
    assert len(left) == 1
    assert "forgotten" in left[0]
    task.cancel()
    await asyncio.wait([task])


async def test_task_that_ends_by_itself_is_no_leak() -> None:
    before = frozenset(asyncio.all_tasks())
    task = asyncio.create_task(asyncio.sleep(0.05))
    assert await leaked_tasks(before) == []
    await task


async def test_child_that_goes_on_is_named() -> None:
    before = children()
    with subprocess.Popen(["sleep", "60"]) as child:  # noqa: ASYNC220 - a sync child is the point
        assert "sleep 60" in await leaked_children(before)
        child.kill()
    assert await leaked_children(before) == ""


async def test_condition_that_never_holds_fails_the_test_in_time() -> None:
    with pytest.raises(AssertionError, match="the moon"):
        await eventually(lambda: False, timeout_s=0.05, what="the moon")


def test_fake_clock_moves_only_forward() -> None:
    clock = FakeClock(monotonic_s=5, unix_ms=1_000)
    clock.advance(1.5)
    assert (clock(), clock.monotonic(), clock.now_ms()) == (6.5, 6.5, 2_500)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
