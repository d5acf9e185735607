"""Processes: started again, stopped in order, gone with their parent."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh_cli import children
from mesh_cli.children import Child, Command, describe_exit
from mesh_cli.failure import Exit, Failure

SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("draining", flush=True), sys.exit(0)))
print("up", flush=True)
time.sleep(60)
"""
PARENT = """
import asyncio, os, sys
from pathlib import Path
from mesh_cli.children import Child, Command

async def main():
    code = "import signal; print('up', flush=True); signal.pause()"
    argv = [sys.executable, "-c", code]
    command = Command(name="c", argv=argv, log=Path(sys.argv[1]), env=dict(os.environ))
    child = Child(command, say=print, started=lambda: None)
    await child.start()
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def command(tmp_path: Path, code: str, *args: str) -> Command:
    return Command(
        name="one",
        argv=[sys.executable, "-c", code, *args],
        log=tmp_path / "one.log",
        env=dict(os.environ),
    )


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_child_drains_on_stop_and_is_not_started_again(tmp_path: Path) -> None:
    child = Child(command(tmp_path, SLEEPER), say=print, started=lambda: None)
    await child.start()
    keep = asyncio.ensure_future(child.keep())
    await until(lambda: "up" in (tmp_path / "one.log").read_text(), "started")

    await child.stop()
    await keep

    assert not child.alive
    assert (tmp_path / "one.log").read_text().split() == ["up", "draining"]


async def test_child_is_started_again_after_any_unasked_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "BACKOFF_FIRST_S", 0.01)
    said: list[str] = []
    starts: list[int] = []
    child = Child(
        command(tmp_path, "raise SystemExit(75)"), say=said.append, started=lambda: starts.append(1)
    )
    await child.start()
    keep = asyncio.ensure_future(child.keep())
    await until(lambda: len(starts) >= 3, "two restarts")

    await child.stop()
    await keep

    assert "one ended (exit 75)" in said[0]
    assert child.restarts >= 2


async def test_child_that_refuses_its_configuration_is_not_tried_again(tmp_path: Path) -> None:
    code = "print('runner.toml: limits.slots: expected int'); raise SystemExit(78)"
    child = Child(command(tmp_path, code), say=print, started=lambda: None)
    await child.start()

    with pytest.raises(Failure, match=r"limits\.slots: expected int") as caught:
        await child.keep()
    assert caught.value.code is Exit.CONFIG


async def test_stubborn_child_is_killed_with_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "DRAIN_MAX_S", 0.2)
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(inner.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    said: list[str] = []
    child = Child(command(tmp_path, code), say=said.append, started=lambda: None)
    await child.start()
    log = tmp_path / "one.log"
    await until(lambda: log.read_text().strip().isdigit(), "inner process")
    inner = int(log.read_text())

    await child.stop()

    assert not child.alive
    await until(lambda: gone(inner), "inner process gone")
    assert "did not drain" in said[0]


async def test_program_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    missing = Command(name="one", argv=["/nonexistent"], log=tmp_path / "log", env={})
    child = Child(missing, say=print, started=lambda: None)

    with pytest.raises(Failure, match="cannot start one"):
        await child.start()


@pytest.mark.skipif(sys.platform != "linux", reason="death signals exist on Linux only")
def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "c.log"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        deadline = time.monotonic() + 10
        while "up" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()

    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone(pid)


async def test_large_log_is_cut_under_the_running_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_MAX_BYTES", 100)
    child = Child(command(tmp_path, SLEEPER), say=print, started=lambda: None)
    await child.start()
    log = tmp_path / "one.log"
    await until(lambda: "up" in log.read_text(), "started")
    with log.open("a") as file:
        file.write("x" * 200)

    child.roll_log()
    await child.stop()

    assert log.read_text().strip() == "draining"
    assert "x" * 200 in (tmp_path / "one.log.1").read_text()


def test_exit_codes_are_said_in_words() -> None:
    assert describe_exit(75) == "exit 75"
    assert describe_exit(-9) == "SIGKILL"
