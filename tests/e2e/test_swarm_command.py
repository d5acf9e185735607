"""``mesh swarm`` shows a real swarm: in a list, in a live view, in pictures."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.e2e.running_mesh import MESH, PLAIN_ENVIRONMENT, RunningMesh

pytestmark = pytest.mark.slow

AGENTS = [
    {"type": "validator", "name": "first"},
    {"type": "validator", "name": "second", "parent": "first"},
    {"type": "validator", "name": "third", "parent": "first"},
]
CHECK = {"value": 3, "schema": {"type": "integer"}}


def call(mesh: RunningMesh, tool: str, **arguments: Any) -> dict[str, Any]:
    done = mesh.mesh("call", tool, json.dumps(arguments), "--raw", check=False)
    answer = json.loads(done.stdout)
    assert not answer.get("isError"), done.stdout + mesh.logs()
    return answer["structuredContent"]


@pytest.fixture(scope="module")
def swarm(mesh: RunningMesh) -> str:
    made = call(mesh, "swarm_init", topology="hierarchical", name="seen", initialAgents=AGENTS)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        # The answer comes within a second; agents may take longer to start.
        seen = call(mesh, "swarm_status", swarmId=made["swarmId"])
        if seen["activeAgents"] == 3:
            return made["swarmId"]
    raise AssertionError(seen)


@pytest.fixture(scope="module")
def task(mesh: RunningMesh, swarm: str) -> str:
    phases = [
        {"name": "check", "agents": ["first"], "input": CHECK},
        {"name": "again", "agents": ["second"], "input": CHECK, "dependencies": ["check"]},
    ]
    done = call(
        mesh,
        "task_orchestrate",
        swarmId=swarm,
        task={"description": "look twice", "phases": phases},
        wait=True,
    )
    assert done["status"] == "completed", done
    return done["taskId"]


def test_list_has_the_swarm_with_its_owner(mesh: RunningMesh, swarm: str) -> None:
    rows = [row.split() for row in mesh.mesh("swarm", "list").stdout.splitlines()]
    (row,) = (row for row in rows if row[0] == swarm)
    assert {"seen", "hierarchical", "active", "swarm-1"} <= set(row)
    told = json.loads(mesh.mesh("swarm", "list", "--json").stdout)
    assert swarm in {one["swarmId"] for one in told["swarms"]}


def test_status_has_what_agents_did_and_the_tasks(mesh: RunningMesh, swarm: str, task: str) -> None:
    text = mesh.mesh("swarm", "status", swarm).stdout
    rows = [row.split() for row in text.splitlines()]
    for name, done in (("first", "1"), ("second", "1"), ("third", "0")):
        (row,) = (row for row in rows if row[:1] == [name])
        assert row[1:3] == ["validator", "active"]
        assert row[5] == done, text
    (row,) = (row for row in rows if row[:1] == [task])
    assert row[1:3] == ["completed", "2/2"]
    told = json.loads(mesh.mesh("swarm", "status", swarm, "--json").stdout)
    assert told["swarm"]["metrics"]["tasksCompleted"] >= 1


def test_picture_of_the_swarm_has_its_agents_and_links(
    mesh: RunningMesh, swarm: str, tmp_path: Path
) -> None:
    chart = mesh.mesh("swarm", "picture", swarm).stdout
    assert chart.splitlines()[1] == "flowchart LR"
    assert chart.count("validator, active") == 3
    assert chart.count("<-->") == 2
    file = tmp_path / "swarm.svg"
    mesh.mesh("swarm", "picture", swarm, "-o", str(file))
    root = ET.fromstring(file.read_text())
    shown = {found.text for found in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"first", "second", "third"} <= shown


def test_picture_of_a_task_has_its_phases_in_order_with_times(
    mesh: RunningMesh, swarm: str, task: str
) -> None:
    chart = mesh.mesh("swarm", "picture", swarm, "--task", task).stdout
    assert "p0 --> p1" in chart
    assert chart.count("done, 1/1<br/>") == 2


def test_swarm_that_is_not_there_is_said_in_one_line(mesh: RunningMesh) -> None:
    done = mesh.mesh("swarm", "status", "swarm_1_none", check=False)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_live_view_shows_rates_and_ends_with_ctrl_c(
    mesh: RunningMesh, swarm: str, task: str
) -> None:
    master, terminal = pty.openpty()
    child = subprocess.Popen(
        [MESH, "swarm", "top", swarm, "--every", "0.2"],
        cwd=mesh.room,
        env={**PLAIN_ENVIRONMENT, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    try:
        shown = _until(master, b"steps 0.0/s", child)
        assert b"second" in shown
        assert task.encode() in shown
        child.send_signal(signal.SIGINT)
        rest = _until(master, b"\x1b[?1049l", child)  # back to the ordinary screen
        assert b"Traceback" not in rest
        assert child.wait(10) == 130
    finally:
        child.kill()
        child.wait()
        os.close(master)
    # Where the output is no terminal it is one picture.
    assert "second" in mesh.mesh("swarm", "top", swarm).stdout


def _until(master: int, wanted: bytes, child: subprocess.Popen[bytes]) -> bytes:
    """What the terminal shows until ``wanted`` is in it."""
    shown = b""
    until = time.monotonic() + 30
    while wanted not in shown and time.monotonic() < until:
        if select.select([master], [], [], 0.1)[0]:
            try:
                shown += os.read(master, 65_536)
            except OSError:  # the other end is closed
                break
        elif child.poll() is not None:
            break
    assert wanted in shown, shown[-2000:]
    return shown
