"""Slots of stdio edges."""

import subprocess
import sys
from pathlib import Path

import pytest

from mesh_cli import bootstrap, plan
from mesh_cli.commands import stdio
from mesh_cli.failure import Failure
from mesh_cli.state import StateDir

TAKE = """
import os, sys
from pathlib import Path
from mesh_cli.commands.stdio import take_slot
from mesh_cli.state import StateDir
name = take_slot(StateDir(Path(sys.argv[1])))
code = "import sys; print(sys.argv[1], flush=True); sys.stdin.read()"
os.execv(sys.executable, [sys.executable, "-c", code, name])
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / ".mesh")
    made.create()
    bootstrap.ensure_keys(made, plan.users(1, 1))
    return made


def edge(state: StateDir) -> "tuple[subprocess.Popen[bytes], str]":
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(state.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().decode().strip()


def test_every_edge_has_a_key_of_its_own_as_long_as_it_lives(state: StateDir) -> None:
    first, one = edge(state)
    second, two = edge(state)
    with first, second:
        assert {one, two} == {"stdio-1", "stdio-2"}
        first.communicate()
        third, again = edge(state)
        with third:
            assert again == one
            third.communicate()
        second.communicate()


def test_too_many_edges_are_refused(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "STDIO_SLOTS", 1)
    process, _ = edge(state)
    with process:
        with pytest.raises(Failure, match="1 stdio edges run already"):
            stdio.take_slot(state)
        process.communicate()
