"""Children and their reaper, with real processes."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator

import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis import reaper
from mesh_chassis.children import ChildLimits, Children
from mesh_chassis.reaper import Frames
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.processes import marked

TREE = "setsid sleep 1000 & (sleep 1000 &) ; sleep 1000 & wait"
"""A shell with one child in a session of its own, one orphan and one plain child."""


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    one = Children()
    yield one
    await one.close()


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def close(child) -> None:
    for fd in (child.stdin, child.stdout, child.stderr):
        os.close(fd)


async def spawn_tree(children) -> tuple[object, str]:
    child = await children.spawn(["sh", "-c", TREE], env=environment())
    marker = f"{reaper.MARKER}={child.marker}"
    await eventually(lambda: len(marked(marker)) == 4)
    return child, marker


async def test_child_has_its_own_session_and_says_how_it_ended(children):
    child = await children.spawn(["sh", "-c", "exit 3"], env=environment())
    assert await child.exited == 3
    close(child)
    child = await children.spawn(["sleep", "1000"], env=environment())
    assert os.getsid(child.pid) == child.pid
    children.kill(child)
    assert await child.exited == -signal.SIGKILL
    close(child)


async def test_kill_takes_every_descendant(children):
    child, marker = await spawn_tree(children)
    children.kill(child)
    await child.exited
    assert marked(marker) == []
    close(child)


async def test_polite_child_ends_by_sigterm_and_a_stubborn_one_after_the_grace(children):
    for script, status in (
        ("trap 'exit 7' TERM; echo on; while :; do sleep 0.01; done", 7),
        ("trap '' TERM; echo on; while :; do sleep 0.01; done", -9),
    ):
        child = await children.spawn(["sh", "-c", script], env=environment())
        await asyncio.to_thread(os.read, child.stdout, 3)
        children.kill(child, grace_s=0.2)
        assert await child.exited == status
        close(child)


async def test_killed_reaper_takes_the_children_along_and_is_replaced(children):
    child, marker = await spawn_tree(children)
    first = children.reaper_pid
    os.kill(first, signal.SIGKILL)
    assert await child.exited == -9
    assert marked(marker) == []
    close(child)
    again = await children.spawn(["true"], env=environment())
    assert await again.exited == 0
    assert children.reaper_pid != first
    close(again)


async def test_killed_runner_leaves_nothing(tmp_path):
    script = tmp_path / "runner.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio, os
            from mesh_chassis.children import Children

            async def main():
                child = await Children().spawn(["sh", "-c", {TREE!r}], env=dict(os.environ))
                print(child.marker, flush=True)
                await asyncio.sleep(1000)

            asyncio.run(main())
            """
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    marker = f"{reaper.MARKER}={(await process.stdout.readline()).decode().strip()}"
    await eventually(lambda: len(marked(marker)) == 4)
    process.kill()
    await process.wait()
    await eventually(lambda: not marked(marker))


async def test_limits_hold_in_the_child(children):
    child = await children.spawn(
        ["sh", "-c", "ulimit -n"], env=environment(), limits=ChildLimits(files=99)
    )
    await child.exited
    assert os.read(child.stdout, 10) == b"99\n"
    close(child)


async def test_start_that_fails_names_the_reason(children):
    for argv, env in (
        (["no-such-program"], environment()),
        (["a\0b"], {}),
        (["true"], {"A": "\0"}),
    ):
        with pytest.raises(MeshError) as caught:
            await children.spawn(argv, env=env)
        assert caught.value.kind is ErrorKind.UPSTREAM
        assert caught.value.outcome is Outcome.NOT_EXECUTED


async def test_many_children_start_at_once(children):
    started = await asyncio.gather(
        *(children.spawn(["true"], env=environment()) for _ in range(40))
    )
    assert [await child.exited for child in started] == [0] * 40
    for child in started:
        close(child)


def test_frames_survive_any_cut():
    data = Frames.pack(b"spawn", b"1", b"") + Frames.pack(b"kill")
    for size in range(1, len(data) + 1):
        frames = Frames()
        got = [
            frame for at in range(0, len(data), size) for frame in frames.feed(data[at : at + size])
        ]
        assert got == [[b"spawn", b"1", b""], [b"kill"]]


async def test_start_without_free_descriptors_fails_like_any_other_start(children, monkeypatch):
    made: list[tuple[int, int]] = []

    def pipe() -> tuple[int, int]:
        if made:
            raise OSError(24, "Too many open files")
        made.append(os_pipe())
        return made[0]

    os_pipe = os.pipe
    child = await children.spawn(["true"], env=environment())  # the reaper runs from here on
    await child.exited
    close(child)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", pipe)
        with pytest.raises(MeshError) as caught:
            await children.spawn(["true"], env=environment())
    assert (caught.value.kind, caught.value.outcome) == (
        ErrorKind.UPSTREAM,
        Outcome.NOT_EXECUTED,
    )
    for fd in made[0]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    child = await children.spawn(["sh", "-c", "exit 4"], env=environment())
    assert await child.exited == 4
    close(child)
    assert len(children) == 0
