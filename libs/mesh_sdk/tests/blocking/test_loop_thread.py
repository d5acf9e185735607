"""Tests of mesh_sdk.blocking.loop_thread."""

import asyncio
import subprocess
import sys
import threading

import pytest

from mesh_sdk.blocking.loop_thread import LoopThread, aside
from mesh_sdk.client import MeshCallError


def test_loop_thread_runs_coroutines_of_several_threads_and_ends() -> None:
    loop = LoopThread("test")

    async def twice(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    done: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: done.append(loop.run(twice(n)))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(done) == [2 * n for n in range(8)]
    loop.stop()
    loop.stop()
    assert not [one for one in threading.enumerate() if one.name == "test"]
    assert loop.run(twice(4)) == 8
    loop.stop()


def test_call_from_its_own_thread_is_refused_instead_of_waiting_for_itself() -> None:
    loop = LoopThread("test")

    async def nothing() -> None:
        return

    async def inside() -> str:
        with pytest.raises(RuntimeError, match="callback"):
            loop.run(nothing())
        return "refused"

    assert loop.run(inside()) == "refused"
    loop.stop()


def test_stop_cancels_what_runs() -> None:
    loop = LoopThread("test")
    begun, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    def wait() -> None:
        with pytest.raises(MeshCallError, match="closed"):
            loop.run(hang())

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(5)
    loop.stop()
    thread.join(5)
    assert cancelled.is_set()
    assert not thread.is_alive()


async def test_plain_handler_runs_aside_of_the_loop() -> None:
    handler = aside(lambda text: (text, threading.current_thread()))
    assert handler is not None
    text, thread = await handler("x")
    assert text == "x"
    assert thread is not threading.current_thread()


_FORKS = """
import asyncio, os
from mesh_sdk.blocking.loop_thread import LoopThread

async def three():
    return 3

loop = LoopThread("test")
assert loop.run(three()) == 3
child = os.fork()
if child == 0:
    try:
        loop.run(three())
    except RuntimeError as error:
        loop.stop()
        os._exit(0 if "forked" in str(error) and loop.run(three()) == 3 else 2)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert loop.run(three()) == 3
loop.stop()
"""


def test_forked_child_is_told_so_instead_of_waiting_for_ever() -> None:
    subprocess.run([sys.executable, "-c", _FORKS], check=True, timeout=20)
