import os

from mesh_agents.host.limits import Cgroups


def machine(tmp_path, *, controllers="cpu memory pids", procs=None, own="0::/unit"):
    mount = tmp_path / "cgroup"
    unit = mount / "unit"
    unit.mkdir(parents=True)
    (mount / "cgroup.controllers").write_text(controllers)
    (unit / "cgroup.controllers").write_text(controllers)
    (unit / "cgroup.procs").write_text(f"{procs if procs is not None else os.getpid()}\n")
    proc = tmp_path / "self"
    proc.write_text(f"12:cpu:/else\n{own}\n")
    return mount, proc


def test_cgroup_of_our_own_is_divided_and_limits_are_written(tmp_path):
    mount, proc = machine(tmp_path)
    groups = Cgroups.find(mount, proc)
    assert groups.reason == ""
    unit = mount / "unit"
    assert (unit / "host" / "cgroup.procs").read_text() == str(os.getpid())
    assert (unit / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert groups.confine("a1", 77, memory_bytes=1000, cpu=1.5).holds
    agent = unit / "agents" / "a1"
    assert (agent / "memory.max").read_text() == "1000"
    assert (agent / "cpu.max").read_text() == "150000 100000"
    assert (agent / "cgroup.procs").read_text() == "77"
    for file in agent.iterdir():
        file.unlink()  # the kernel's files go with their directory
    groups.release("a1")
    assert not agent.exists()
    groups.release("a1")


def test_cgroup_that_is_not_ours_alone_is_left_as_it_is(tmp_path):
    for at, (change, words) in enumerate(
        (
            ({"procs": f"{os.getpid()}\n1"}, "shares"),
            ({"controllers": "cpu"}, "memory"),
            ({"own": "1:name=x:/"}, "version 2"),
        )
    ):
        mount, proc = machine(tmp_path / str(at), **change)
        groups = Cgroups.find(mount, proc)
        assert words in groups.reason
        assert not (mount / "unit" / "agents").exists()
        assert groups.confine("a", 1, memory_bytes=5, cpu=0).holds  # by rlimit
        cores = groups.confine("a", 1, memory_bytes=0, cpu=1)
        assert not cores.holds
        assert words in cores.reason
        assert groups.confine("a", 1, memory_bytes=0, cpu=0).reason == "no limits were asked for"
    assert Cgroups.find(tmp_path / "none", tmp_path / "0" / "self").reason


def test_refusal_of_the_kernel_is_told(tmp_path):
    mount, proc = machine(tmp_path)
    groups = Cgroups.find(mount, proc)
    (mount / "unit" / "agents" / "a1").write_text("no directory")
    refused = groups.confine("a1", 1, memory_bytes=1, cpu=0)
    assert not refused.holds
    assert "refuses" in refused.reason
