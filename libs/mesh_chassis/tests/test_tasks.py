"""Background tasks are owned, counted, logged and ended."""

import asyncio
import logging

import pytest

from mesh_chassis.tasks import Tasks, TasksFullError


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("broken")


async def test_tasks_counts_by_name_and_forgets_what_has_ended() -> None:
    tasks = Tasks("owner")
    first = tasks.spawn(forever(), name="watch")
    tasks.spawn(forever(), name="watch")
    assert tasks.counts() == {"watch": 2}
    first.cancel()
    await asyncio.wait([first])
    assert len(tasks) == 1
    assert await tasks.close() == ()
    assert len(tasks) == 0


async def test_tasks_logs_the_exception_of_a_task(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks("owner")
    with caplog.at_level(logging.ERROR):
        await asyncio.wait([tasks.spawn(fail(), name="loop")])
    assert "task loop of owner failed" in caplog.text
    assert "broken" in caplog.text


async def test_tasks_tells_its_owner_only_when_a_fatal_task_fails() -> None:
    seen: list[BaseException] = []
    tasks = Tasks("owner", on_fatal=seen.append)
    await asyncio.wait([tasks.spawn(fail(), name="a")])
    assert seen == []
    await asyncio.wait([tasks.spawn(fail(), name="b", fatal=True)])
    assert [str(error) for error in seen] == ["broken"]
    tasks.spawn(forever(), name="c", fatal=True)
    await tasks.close()
    assert len(seen) == 1


async def test_tasks_refuses_more_than_its_bound_and_anything_once_closed() -> None:
    tasks = Tasks("owner", tasks_max=1)
    tasks.spawn(forever(), name="a")
    with pytest.raises(TasksFullError, match="full"):
        tasks.spawn(forever(), name="b")
    await tasks.close()
    with pytest.raises(TasksFullError, match="closed"):
        tasks.spawn(forever(), name="c")


async def test_tasks_close_is_bounded_when_a_task_swallows_cancellation() -> None:
    release, started = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    tasks = Tasks("owner")
    task = tasks.spawn(stubborn(), name="stubborn")
    await started.wait()
    assert await tasks.close(0.05) == ("stubborn",)
    release.set()
    await asyncio.wait([task])


async def test_tasks_close_may_be_called_from_one_of_its_own_tasks() -> None:
    tasks = Tasks("owner")
    tasks.spawn(forever(), name="other")
    ended = tasks.spawn(tasks.close(1.0), name="closer")
    await asyncio.wait_for(ended, 2)
    assert ended.result() == ()
    assert len(tasks) == 0


async def test_tasks_join_reports_whether_all_ended_in_time() -> None:
    tasks = Tasks("owner")
    tasks.spawn(asyncio.sleep(0), name="short")
    assert await tasks.join(1.0)
    tasks.spawn(forever(), name="long")
    assert not await tasks.join(0.01)
    await tasks.close()
