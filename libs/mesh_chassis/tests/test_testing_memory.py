"""Stores in memory: they go with their test, and with a test that was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh_chassis.testing import memory
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.memory import memory_folder


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests need a folder, not memory."""
    monkeypatch.setattr(memory, "_MEMORY", tmp_path)
    monkeypatch.setattr(memory, "_FREE_BYTES_MIN", 0)


def test_folder_of_a_dead_process_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    told = [sys.executable, "-c", "import os; print(os.getpid())"]
    dead = subprocess.run(told, stdout=subprocess.PIPE, check=True)
    left = tmp_path / f"mesh-test-{int(dead.stdout)}-abc"
    (left / "jetstream").mkdir(parents=True)
    mine, other = memory_folder(), memory_folder()
    assert mine != other
    assert {mine, other} == set(tmp_path.iterdir())
    assert mine is not None
    assert f"-{os.getpid()}-" in mine.name


def test_disk_is_taken_where_memory_is_short_or_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_FREE_BYTES_MIN", 2**62)
    assert Broker(tmp_path / "b", in_memory=True).store == tmp_path / "b" / "jetstream"
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "absent")
    assert memory_folder() is None


async def test_store_outlives_the_broker_and_goes_when_it_is_removed(tmp_path: Path) -> None:
    made = Broker(tmp_path / "b", in_memory=True)
    async with made:
        store = made.store
        assert store.is_dir()
        await made.kill()
        assert store.is_dir()
        await made.start()
    made.remove_store()
    assert not store.exists()
