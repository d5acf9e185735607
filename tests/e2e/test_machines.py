"""Agents in machines, as a user has them: one table in mesh.toml, the tools, the command."""

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running_mesh import RunningMesh

pytestmark = pytest.mark.slow

FILE = """
[vm]
enabled = true
[swarm]
enabled = false
"""
AGENT = """
from mesh_sdk.agent import Agent
agent = Agent("boxed")

@agent.tool
def hello(name: str) -> str:
    print("said hello to", name, flush=True)
    return f"hello {name}"

agent.run()
"""


@pytest.fixture(scope="module")
def boxes() -> Iterator[RunningMesh]:
    # A Unix socket's path is short, so the state is not below pytest's folder.
    with tempfile.TemporaryDirectory(prefix="mesh") as name:
        mesh = RunningMesh(Path(name), "--no-sample", config=FILE).start()
        yield mesh
        mesh.stop()
        assert not mesh.left()
        assert list((mesh.state / "vm").iterdir()) == []


def call(mesh: RunningMesh, tool: str, **arguments: Any) -> Any:
    done = mesh.mesh("call", tool, json.dumps(arguments), "--raw", check=False)
    assert done.stdout, done.stderr + mesh.logs()
    return json.loads(done.stdout)


def spawned(mesh: RunningMesh) -> str:
    made = call(mesh, "vm_spawn", agent="boxed", program="agent", config={"source": AGENT})
    vm = made["structuredContent"]["vmId"]
    until = time.monotonic() + 30
    while time.monotonic() < until:
        said = call(mesh, "vm_status", vmId=vm)["structuredContent"]
        if said["status"] != "spawning":
            assert said["status"] == "ready", said
            return str(vm)
    raise AssertionError(said)


def test_agent_in_a_sandbox_answers_a_call_and_is_stopped_by_the_command(
    boxes: RunningMesh,
) -> None:
    vm = spawned(boxes)
    answer = call(boxes, "boxed:hello", name="you")
    assert answer["content"][0]["text"] == "hello you"
    listed = json.loads(boxes.mesh("vm", "list", "--json").stdout)
    assert [one["record"]["vmId"] for one in listed["machines"]] == [vm]
    shown = boxes.mesh("vm", "status", vm).stdout
    assert "sandbox by sandbox (at least sandbox)" in shown
    assert "MiB" in shown
    assert "said hello to you" in boxes.mesh("vm", "logs", vm).stdout
    timings = json.loads(boxes.mesh("vm", "timings", "--json").stdout)
    steps = timings["sandbox"]
    assert steps["machines"] == 1
    assert 0 < steps["running"] < steps["hello"] < steps["connected"] <= steps["ready"]
    assert boxes.mesh("vm", "stop", vm).stdout.strip() == f"{vm} is stopped"
    assert list((boxes.state / "vm").iterdir()) == []
    assert vm in boxes.mesh("vm", "list", "--all").stdout
    assert vm not in boxes.mesh("vm", "list").stdout


def test_drivers_are_listed_with_what_is_missing(boxes: RunningMesh) -> None:
    drivers = {
        one["driver"]: one
        for one in json.loads(boxes.mesh("vm", "drivers", "--json").stdout)["drivers"]
    }
    assert drivers["sandbox"]["available"] is True
    assert drivers["qemu"]["available"] is False
    assert "vm-image" in drivers["qemu"]["reason"]


def test_unknown_machine_is_a_failure_of_the_command(boxes: RunningMesh) -> None:
    done = boxes.mesh("vm", "status", "nobody-1", check=False)
    assert done.returncode != 0
    assert "there is no machine nobody-1" in done.stderr


def test_spawner_that_is_killed_leaves_nothing_and_the_next_one_goes_on(
    boxes: RunningMesh,
) -> None:
    vm = spawned(boxes)
    boxes.kill("vm-1", signal.SIGKILL)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        done = boxes.mesh("vm", "list", "--all", "--json", check=False)
        if done.returncode == 0:
            states = {
                one["record"]["vmId"]: one["record"]["observed"]["state"]
                for one in json.loads(done.stdout)["machines"]
            }
            if states.get(vm) == "lost":
                break
    else:
        raise AssertionError(boxes.logs())
    assert list((boxes.state / "vm").iterdir()) == []
    again = spawned(boxes)
    assert boxes.mesh("vm", "stop", again).stdout.strip() == f"{again} is stopped"
