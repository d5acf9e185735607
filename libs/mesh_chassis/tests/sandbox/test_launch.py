"""Real sandboxes: how they start, what they say of themselves, and how they end."""

# ruff: noqa: ASYNC220, ASYNC240 - small files and processes of the tests themselves

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.peers import require

from mcp_proto.errors import MeshError, Outcome
from mesh_chassis.children import Children
from mesh_chassis.sandbox.cgroups import Groups
from mesh_chassis.sandbox.launch import Sandboxed, Sandboxes
from mesh_chassis.sandbox.policy import Bind, SandboxPolicy
from mesh_chassis.testing.conditions import eventually

PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    one = Children()
    yield one
    await one.close()


@pytest.fixture
async def sandboxes(children) -> Sandboxes:
    require("bwrap")
    one = Sandboxes(children)
    report = await one.probe()
    if not report.available:
        assert not os.environ.get("CI"), report.reason
        pytest.skip(f"sandboxes do not work here: {report.reason}")
    return one


async def said(made: Sandboxed) -> tuple[int, str, str]:
    status = await made.child.exited
    texts = []
    for fd in (made.child.stdout, made.child.stderr):
        os.set_blocking(fd, False)
        texts.append(os.read(fd, 65536).decode())
    for fd in (made.child.stdin, made.child.stdout, made.child.stderr):
        os.close(fd)
    return status, texts[0], texts[1]


async def sh(sandboxes: Sandboxes, script: str, **policy: object) -> tuple[int, str, str]:
    policy.setdefault("environment", PATH)
    return await said(await sandboxes.spawn(SandboxPolicy(**policy), ("/bin/sh", "-c", script)))


async def test_a_host_without_bubblewrap_says_what_to_install(children, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    one = Sandboxes(children)
    report = await one.probe()
    assert not report.available
    assert "bubblewrap is not installed" in report.reason
    with pytest.raises(MeshError, match="sandboxes do not work here") as caught:
        await one.spawn(SandboxPolicy(), ("true",))
    assert caught.value.outcome is Outcome.NOT_EXECUTED


async def test_a_bubblewrap_that_is_too_old_or_fails_is_named(children, monkeypatch):
    cases = (
        ("echo bubblewrap 0.6.1", "0.6 is too old"),
        ("echo nonsense", "which version"),
        (
            (
                'test "$1" = --version && echo bubblewrap 0.9.0 && exit 0\n'
                "echo 'bwrap: Creating new namespace failed: nope' >&2; exit 1"
            ),
            "no user namespace",
        ),
    )
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        program = Path(name, "bwrap")
        monkeypatch.setenv("PATH", f"{name}:/usr/bin:/bin")
        for script, words in cases:
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
            report = await Sandboxes(children).probe()
            assert not report.available
            assert words in report.reason


async def test_a_program_gets_its_variables_and_no_other(sandboxes):
    status, out, _ = await sh(sandboxes, "env", environment={**PATH, "TOKEN": "a b\nc"})
    assert status == 0
    assert "TOKEN=a b\nc" in out
    assert {line.partition("=")[0] for line in out.splitlines()} == {"PATH", "TOKEN", "c", "PWD"}


async def test_values_of_variables_are_on_no_command_line(sandboxes):
    made = await sandboxes.spawn(
        SandboxPolicy(environment={**PATH, "TOKEN": "s3cret"}), ("/bin/sleep", "1000")
    )
    line = Path(f"/proc/{made.child.pid}/cmdline").read_bytes()
    assert b"bwrap" in line
    assert b"s3cret" not in line
    assert b"s3cret" not in Path(f"/proc/{made.child.pid}/environ").read_bytes()
    sandboxes._children.kill(made.child)
    await said(made)


async def test_a_path_is_seen_as_the_policy_says_below_folders_of_others(sandboxes, tmp_path):
    closed = tmp_path / "closed"
    shown, kept = closed / "shown", closed / "kept"
    for folder in (shown, kept):
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    (shown / "a").write_text("here")
    closed.chmod(0o700)
    binds = (Bind(source=str(shown), target="/data"), Bind(source=str(kept), writable=True))
    status, out, err = await sh(
        sandboxes, f"cat /data/a; touch /data/b; echo new > {kept}/b", binds=binds
    )
    assert out == "here"
    assert "Read-only" in err
    assert status == 0
    assert (kept / "b").read_text() == "new\n"


async def test_a_path_that_is_not_there_or_not_readable_is_refused_with_its_name(
    sandboxes, tmp_path
):
    with pytest.raises(MeshError, match="No such file"):
        await sh(sandboxes, "true", binds=(Bind(source=str(tmp_path / "x")),))
    if os.geteuid() == 0:
        hidden = tmp_path / "hidden"
        hidden.mkdir(mode=0o700)
        with pytest.raises(MeshError, match="cannot be read by uid 65534"):
            await sh(sandboxes, "true", binds=(Bind(source=str(hidden)),))
        hidden.chmod(0o755)
        with pytest.raises(MeshError, match="cannot be written by uid 65534"):
            await sh(sandboxes, "true", binds=(Bind(source=str(hidden), writable=True),))


async def test_the_way_a_program_ended_is_its_own(sandboxes):
    assert (await sh(sandboxes, "exit 3"))[0] == 3
    assert (await sh(sandboxes, "kill -15 $$"))[0] == -signal.SIGTERM


async def test_groups_are_gone_with_the_program_and_usage_was_seen(sandboxes):
    made = await sandboxes.spawn(SandboxPolicy(environment=PATH), ("/bin/sleep", "1000"))
    if "pids" in made.group.folders:
        await eventually(lambda: (made.usage().pids or 0) >= 2)
    sandboxes._children.kill(made.child)
    await said(made)
    assert not any(Path(path).exists() for path in made.group.paths)


async def test_without_control_groups_rlimits_hold_and_the_report_says_so(children):
    require("bwrap")
    none = Groups({}, unified=True, owner="mesh-test")
    one = Sandboxes(children, groups=none)
    report = await one.probe()
    if not report.available:
        pytest.skip(report.reason)
    assert report.limits.startswith("partial(memory by RLIMIT_DATA per process, cpu none, pids")
    script = 'python3 -c "x = bytearray(300 << 20)" || echo no memory'
    _, out, _ = await sh(one, script, memory_bytes=64 << 20)
    assert out == "no memory\n"
    if "RLIMIT_NPROC" in report.limits:
        script = "n=0; while [ $n -lt 60 ]; do sleep 100 & n=$((n+1)); done; echo made"
        _, out, err = await sh(one, script, pids=20)
        assert "made" not in out
        assert "fork" in err


async def test_control_groups_that_nobody_may_enter_are_left_out(children, tmp_path):
    require("bwrap")
    (tmp_path / "pids.max").touch()
    one = Sandboxes(
        children, groups=Groups({"pids": tmp_path / "no"}, unified=True, owner="mesh-test")
    )
    report = await one.probe()
    if not report.available:
        pytest.skip(report.reason)
    assert report.limits.startswith("partial(")


async def test_fifty_sandboxes_at_once_leave_nothing_behind(sandboxes):
    made = await asyncio.gather(*(sh(sandboxes, "echo $$; sleep 0.05") for _ in range(50)))
    assert {status for status, _, _ in made} == {0}
    places = sandboxes._found().places.values()
    assert [one for place in places for one in place.glob(f"mesh-{os.getpid()}-*")] == []


SERVICE = """
    import asyncio, sys
    from mesh_chassis.children import Children
    from mesh_chassis.sandbox.launch import Sandboxes
    from mesh_chassis.sandbox.policy import SandboxPolicy

    async def main():
        boxes = Sandboxes(Children())
        policy = SandboxPolicy(environment={"PATH": "/usr/bin:/bin"})
        made = await boxes.spawn(
            policy, ("/bin/sh", "-c", "setsid -f sleep 98765; (sleep 98765 &); sleep 98765")
        )
        print(made.child.pid, *made.group.paths, flush=True)
        await asyncio.sleep(1000)

    asyncio.run(main())
"""


@pytest.mark.parametrize("whom", ["service", "reaper", "bwrap"])
async def test_everything_inside_dies_with_the_service_however_that_dies(sandboxes, whom):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVICE)], stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        pid, *groups = service.stdout.readline().split()
        inside = lambda: [one for one in below(int(pid)) if b"98765" in line(one)]  # noqa: E731
        await eventually(lambda: len(inside()) >= 3)
        tree = [int(pid), *below(int(pid))]
        reaper = parent(int(pid))
        os.kill({"service": service.pid, "reaper": reaper, "bwrap": int(pid)}[whom], 9)
        await eventually(lambda: not any(line(one) for one in tree))
        if whom != "reaper":  # then the next life sweeps them
            await eventually(lambda: not any(Path(group).exists() for group in groups))
        service.kill()
    for group in groups:
        if Path(group).exists():
            Path(group).rmdir()


def line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def below(pid: int) -> list[int]:
    parents = {int(one.name): parent(int(one.name)) for one in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for one in found:
        found += [child for child, up in parents.items() if up == one]
    return found[1:]
