"""Control groups: version 2 on a tree of files, and whatever this host has for real."""

import os
from pathlib import Path

import pytest

from mesh_chassis.sandbox.cgroups import CONTROLLERS, Groups


def tree(root: Path, own: str, *, handed_on: str, proc: Path) -> Path:
    """A version 2 tree in which ``own`` is our group."""
    here = root / own
    here.mkdir(parents=True)
    for folder in (root, *(root / part for part in Path(own).parents), here):
        (folder / "cgroup.controllers").write_text("cpu memory pids io\n")
        (folder / "cgroup.subtree_control").write_text("")
    here.parent.joinpath("cgroup.subtree_control").write_text(handed_on)
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(f"0::/{own}\n")
    return here


class Kernel(Groups):
    """Groups whose folders get the files that a kernel would make."""

    FILES = ("memory.max", "memory.swap.max", "cpu.max", "pids.max")

    def make(self, **limits):
        place = next(iter(self.places.values()))
        folder = place / f"{self._owner}-1"
        folder.mkdir()
        for name in self.FILES:
            (folder / name).touch()
        return super().make(**limits)


def test_the_nearest_group_above_that_hands_on_every_controller_is_taken(tmp_path):
    here = tree(tmp_path / "cg", "user/app/me", handed_on="cpu memory pids", proc=tmp_path / "p")
    # A group with processes hands nothing on: writing to its file is refused.
    here.joinpath("cgroup.subtree_control").chmod(0o400)
    found = Kernel.find(root=tmp_path / "cg", proc=tmp_path / "p")
    assert set(found.places) == set(CONTROLLERS)
    assert found.missing == ()
    group = found.make(memory_bytes=1 << 20, cpus=0.5, pids=9)
    (path,) = group.paths
    assert (Path(path) / "memory.max").read_text() == "1048576"
    assert (Path(path) / "memory.swap.max").read_text() == "0"
    assert (Path(path) / "cpu.max").read_text() == "50000 100000"
    assert (Path(path) / "pids.max").read_text() == "9"


def test_a_controller_whose_limit_the_kernel_does_not_take_is_left_out(tmp_path):
    tree(tmp_path / "cg", "a/me", handed_on="cpu memory pids", proc=tmp_path / "p")

    class Less(Kernel):
        FILES = ("memory.max", "pids.max")

    group = Less.find(root=tmp_path / "cg", proc=tmp_path / "p").make(
        memory_bytes=1 << 20, cpus=1, pids=9
    )
    assert set(group.folders) == {"memory", "pids"}


def test_a_host_without_groups_gives_none_and_says_so(tmp_path):
    found = Groups.find(root=tmp_path / "none", proc=tmp_path / "none")
    assert found.missing == CONTROLLERS
    assert found.make(memory_bytes=1 << 20, cpus=1, pids=9).paths == ()


def test_groups_of_a_process_that_is_gone_are_swept_and_those_of_a_living_one_stay(tmp_path):
    tree(tmp_path / "cg", "a/me", handed_on="cpu memory pids", proc=tmp_path / "p")
    place = tmp_path / "cg" / "a" / "me"
    place.joinpath("cgroup.subtree_control").write_text("cpu memory pids")
    dead, alive, young = (place / name for name in ("mesh-1-5-1", "mesh-2-7-1", "mesh-3-9-1"))
    for folder in (dead, alive, young):
        folder.mkdir()
    os.utime(dead, (0, 0))
    os.utime(alive, (0, 0))
    (tmp_path / "p" / "2").mkdir()
    (tmp_path / "p" / "2" / "stat").write_text("2 (x) " + "0 " * 19 + "7 0")
    Groups.find(root=tmp_path / "cg", proc=tmp_path / "p")
    assert [dead.exists(), alive.exists(), young.exists()] == [False, True, True]


def test_the_groups_of_this_host_take_limits_and_go_again():
    found = Groups.find()
    if found.missing:
        pytest.skip(f"this process may use no control group for {', '.join(found.missing)}")
    group = found.make(memory_bytes=64 << 20, cpus=0.5, pids=9)
    assert set(group.folders) >= set(CONTROLLERS)
    assert group.usage().pids == 0
    assert group.remove()
    assert group.usage().pids is None
    assert not any(Path(path).exists() for path in group.paths)
