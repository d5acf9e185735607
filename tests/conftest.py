"""Meshes for tests that look at them from outside only."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.running_mesh import RunningMesh

SERVERS = Path(__file__).parent / "e2e" / "servers"
LAB = SERVERS / "lab.py"
OFFICE = f"""
[[agents.functions]]
name = "clerk"
call = "clerk:work"
path = "{SERVERS}"
hear = "clerk:hear"
slots = 4

[[agents.functions]]
name = "scribe"
call = "clerk:write"
path = "{SERVERS}"

[[agents.commands]]
name = "sleeps"
argv = ["sleep", "{{s}}"]

[[synadia.expose]]
server = "swarm"
tool = "agent_task"
argument = "task"
arguments = {{ agentId = "writer", wait = true }}
result = "/result"
agent = "writer"
session = "main"
description = "Writes down what it is told."
"""


def run(mesh: RunningMesh) -> Iterator[RunningMesh]:
    """Start it, lend it, stop it as ctrl-C does, and look for what it left behind."""
    mesh.start()
    try:
        yield mesh
    finally:
        code = mesh.stop()
    assert code == 0, f"mesh up ended with {code}:\n{mesh.said}\n{mesh.logs()}"
    assert not mesh.left()


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh as ``make up`` starts it: no file, the sample server, development mode."""
    yield from run(RunningMesh(tmp_path_factory.mktemp("mesh") / "room"))


@pytest.fixture(scope="session")
def lab(mesh: RunningMesh) -> RunningMesh:
    """The same mesh with the server ``lab`` added to it while it runs."""
    mesh.mesh("server", "add", "lab", "--", sys.executable, str(LAB))
    return mesh


@pytest.fixture(scope="session")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh with agents of its own: ``clerk`` and ``scribe`` (a prompt away), ``sleeps``."""
    yield from run(RunningMesh(tmp_path_factory.mktemp("office") / "room", config=OFFICE))


@pytest.fixture
def steady(mesh: RunningMesh) -> Iterator[RunningMesh]:
    """The mesh, none of whose processes may have been replaced when the test ends."""
    before = mesh.pids
    yield mesh
    assert mesh.pids == before, "a service ended during this test"
