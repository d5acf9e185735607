"""Meshes for tests that look at them from outside only."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.running_mesh import RunningMesh

LAB = Path(__file__).parent / "e2e" / "servers" / "lab.py"


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


@pytest.fixture
def steady(mesh: RunningMesh) -> Iterator[RunningMesh]:
    """The mesh, none of whose processes may have been replaced when the test ends."""
    before = mesh.pids
    yield mesh
    assert mesh.pids == before, "a service ended during this test"
