"""The state directory, and who holds it."""

import subprocess
import sys
from pathlib import Path

import pytest

from mesh_cli.failure import Exit, Failure
from mesh_cli.state import Endpoint, RunLock, RunRecord, StateDir, find, require

HOLDER = """
import sys
from pathlib import Path
from mesh_cli.state import RunLock, StateDir
RunLock(StateDir(Path(sys.argv[1]))).take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / ".mesh")
    made.create()
    return made


def record(pid: int) -> RunRecord:
    points = (
        Endpoint(instance="nats-server", service="nats-server", pid=2),
        Endpoint(instance="gateway-1", service="gateway", pid=3, http="http://h:1", tcp="h:2"),
    )
    return RunRecord(pid=pid, nats="nats://h:3", tenant="t", development=True, endpoints=points)


def test_directories_are_private(state: StateDir) -> None:
    assert state.root.stat().st_mode & 0o077 == 0
    assert state.keys.stat().st_mode & 0o077 == 0


def test_record_is_read_as_it_was_written(state: StateDir) -> None:
    state.write_run(record(1))

    assert state.read_run() == record(1)
    assert record(1).http == "http://h:1"
    assert record(1).tcp == "h:2"


def test_torn_record_is_none(state: StateDir) -> None:
    state.run_file.write_text('{"pid": 1')

    assert state.read_run() is None


def test_directory_is_held_by_one_process_only(state: StateDir) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert state.holder() == other.pid
        with pytest.raises(Failure, match=f"pid {other.pid}") as caught:
            RunLock(state).take()
        other.kill()

    assert "mesh down" in caught.value.mend
    assert state.holder() == 0
    lock = RunLock(state)
    lock.take()
    lock.release()


def test_released_directory_leaves_neither_pid_nor_record(state: StateDir) -> None:
    lock = RunLock(state)
    lock.take()
    state.write_run(record(1))
    lock.release()

    assert state.pid_file.read_text() == ""
    assert state.read_run() is None
    lock.release()


def test_directory_is_found_upward(tmp_path: Path, state: StateDir) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    found = find(None, below)

    assert found is not None
    assert found.root == state.root


def test_no_running_mesh_is_unreachable(state: StateDir) -> None:
    with pytest.raises(Failure, match="no mesh runs") as caught:
        require(str(state.root))

    assert caught.value.code is Exit.UNREACHABLE
