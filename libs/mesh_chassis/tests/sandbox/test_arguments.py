"""The command line of bubblewrap: its order is what keeps things apart."""

import pytest

from mesh_chassis.sandbox.arguments import Descriptors, System, bwrap_options
from mesh_chassis.sandbox.policy import Bind, SandboxPolicy, policy_problem

SYSTEM = System(binds=("/usr", "/etc/ld.so.cache"), links=(("usr/bin", "/bin"),))
FILES = Descriptors(seccomp=4, data={"/etc/passwd": 5})


def options(**fields: object) -> list[str]:
    sources = fields.pop("sources", None)
    return bwrap_options(SandboxPolicy(**fields), SYSTEM, FILES, sources=sources)


def at(found: list[str], *words: str) -> int:
    """Where these words stand one after the other."""
    places = [n for n in range(len(found)) if tuple(found[n : n + len(words)]) == words]
    assert len(places) == 1, (words, found)
    return places[0]


def test_the_sandbox_has_every_namespace_and_no_capability():
    found = options()
    for words in (
        ("--unshare-all",),
        ("--unshare-user",),
        ("--disable-userns",),
        ("--die-with-parent",),
        ("--new-session",),
        ("--cap-drop", "ALL"),
        ("--uid", "65534"),
        ("--gid", "65534"),
        ("--clearenv",),
        ("--seccomp", "4"),
    ):
        at(found, *words)
    assert "--share-net" not in found


def test_the_network_of_the_host_is_shared_only_when_the_policy_says_so():
    found = options(network=True)
    assert at(found, "--share-net") > at(found, "--unshare-all")


def test_memory_file_systems_come_before_paths_below_them():
    found = options(binds=(Bind(source="/tmp/server", writable=True), Bind(source="/dev2/x")))
    assert at(found, "--tmpfs", "/tmp") < at(found, "--bind", "/tmp/server", "/tmp/server")
    assert at(found, "--ro-bind", "/usr", "/usr") < at(found, "--tmpfs", "/tmp")
    assert at(found, "--dev", "/dev") < at(found, "--tmpfs", "/dev/shm")
    assert at(found, "--tmpfs", "/dev/shm") < at(found, "--remount-ro", "/dev")


def test_every_memory_file_system_has_a_size():
    found = options(tmp_bytes=12345, root="/image")
    places = [n for n, word in enumerate(found) if word == "--tmpfs"]
    assert len(places) == 3
    assert all(found[n - 2] == "--size" for n in places)


def test_a_path_below_another_one_is_bound_after_it_whatever_the_order_given():
    binds = (Bind(source="/srv/a/data", writable=True), Bind(source="/srv/a"))
    found = options(binds=binds)
    assert at(found, "--ro-bind", "/srv/a", "/srv/a") < at(found, "--bind", "/srv/a/data")


def test_the_root_is_closed_after_everything_was_put_into_it():
    found = options(binds=(Bind(source="/srv/a"),))
    last = max(n for n, word in enumerate(found) if word in {"--ro-bind", "--tmpfs", "--symlink"})
    assert at(found, "--remount-ro", "/") > last


def test_an_image_is_the_root_itself_and_gets_no_file_of_ours():
    found = options(root="/images/a", binds=(Bind(source="/l/s", target="/run/mesh/link.sock"),))
    assert at(found, "--ro-bind", "/images/a", "/") < at(found, "--tmpfs", "/run")
    assert at(found, "--tmpfs", "/run") < at(found, "--ro-bind", "/l/s", "/run/mesh/link.sock")
    assert "/usr" not in found
    assert "--ro-bind-data" not in found


def test_variables_are_set_after_the_environment_was_emptied():
    found = options(environment={"TOKEN": "s3cret"})
    assert at(found, "--setenv", "TOKEN", "s3cret") > at(found, "--clearenv")


def test_sources_on_the_stage_are_bound_where_they_would_have_been():
    found = options(binds=(Bind(source="/srv/a"),), sources={"/srv/a": "/mnt/2", "/usr": "/mnt/0"})
    at(found, "--ro-bind", "/mnt/2", "/srv/a")
    at(found, "--ro-bind", "/mnt/0", "/usr")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"binds": (Bind(source="/"),)}, "whole"),
        ({"binds": (Bind(source="/etc"),)}, "whole"),
        ({"binds": (Bind(source="/root"),)}, "whole"),
        ({"binds": (Bind(source="/var/run/docker.sock"),)}, "root on this machine"),
        ({"binds": (Bind(source="/srv", target="/proc/x"),)}, "made anew"),
        ({"binds": (Bind(source="/sys/fs/cgroup"),)}, "made anew"),
        ({"binds": (Bind(source="/srv/../etc/shadow"),)}, "absolute"),
        ({"binds": (Bind(source="srv"),)}, "absolute"),
        ({"binds": (Bind(source="/srv\n"),)}, "absolute"),
        ({"binds": tuple(Bind(source=f"/srv/{n}") for n in range(200))}, "at most"),
        ({"cwd": "here"}, "absolute"),
        ({"environment": {"A=B": "x"}}, "variable"),
        ({"environment": {"A": "\0"}}, "variable"),
        ({"environment": {"A": "x" * 300_000}}, "bytes"),
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"pids": 1}, "pids"),
        ({"files": 2}, "files"),
        ({"file_bytes": 0}, "file_bytes"),
        ({"tmp_bytes": 0}, "tmp_bytes"),
        ({"cpus": 0.0}, "cpus"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_what_is_wrong(fields, word):
    problem = policy_problem(SandboxPolicy(**fields))
    assert problem is not None
    assert word in problem


def test_the_default_policy_is_sound():
    assert policy_problem(SandboxPolicy()) is None
