"""Programs of a step: bounded, and gone with it."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mesh_agents.contract import StepFailedError
from mesh_agents.types import programs
from mesh_agents.types.programs import environment, run_program
from mesh_chassis.reaper import MARKER

_GRANDCHILD = (
    "import os, subprocess, sys, time;"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print(p.pid, flush=True); time.sleep(60)"
)


def _run(code: str, tmp_path: Path, timeout_s: float = 20.0) -> programs.Ended:
    argv = [sys.executable, "-I", "-c", code]
    env = environment(str(tmp_path))
    return run_program(argv, cwd=str(tmp_path), env=env, timeout_s=timeout_s)


def _gone(pid: int) -> bool:
    """Whether a process that is no child of ours has ended, waited for."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def test_program_sees_nothing_of_the_hosts_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_CREDS", "secret")
    monkeypatch.setenv(MARKER, "agent-7")
    ended = _run("import os; print(sorted(os.environ))", tmp_path)
    assert ended.status == 0
    assert b"NATS" not in ended.output
    assert b"PATH" in ended.output
    # But the mark by which the host finds what outlives an agent.
    assert MARKER.encode() in ended.output


@pytest.mark.slow
def test_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-c", _GRANDCHILD]
    said: list[bytes] = []
    began = time.monotonic()
    with pytest.raises(StepFailedError, match="did not end in time") as failed:
        run_program(
            argv, cwd=str(tmp_path), env=environment(str(tmp_path)), timeout_s=2.0,
            on_output=said.append,
        )  # fmt: skip
    assert failed.value.type == "timeout"
    assert time.monotonic() - began < 10
    assert _gone(int(b"".join(said)))


@pytest.mark.slow
def test_program_that_leaves_a_child_behind_is_not_waited_for_longer_than_itself(
    tmp_path: Path,
) -> None:
    code = (
        "import subprocess, sys;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid)"
    )
    began = time.monotonic()
    ended = _run(code, tmp_path)
    assert time.monotonic() - began < 10
    assert _gone(int(ended.output))


def test_program_that_says_too_much_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "OUTPUT_BYTES_MAX", 100_000)
    with pytest.raises(StepFailedError, match="said more than") as failed:
        _run("while True: print('x' * 1000)", tmp_path)
    assert failed.value.type == "limit"


def test_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StepFailedError, match="nowhere cannot be started"):
        run_program(["/nowhere"], cwd=str(tmp_path), env={}, timeout_s=1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_program_ends_with_the_process_of_its_step(tmp_path: Path, number: int) -> None:
    step = (
        "import sys; from mesh_agents.types.programs import *;"
        "run_program([sys.executable, '-I', '-c', 'import os, time; print(os.getpid(), flush=True);"
        " time.sleep(60)'], cwd='.', env={}, timeout_s=60,"
        " on_output=lambda piece: print(piece.decode(), flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", step], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        child.send_signal(number)
        assert child.wait(10) == -number
    assert _gone(pid)
