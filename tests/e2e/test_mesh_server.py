"""Third-party servers come and go while everything runs; one that is no server harms nobody."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client
from tests.e2e.processes import Process
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import lines

from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow

GIT_SERVER = str(Path(sys.executable).with_name("mcp-server-git"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=e2e", "-c", "user.email=e2e@example.invalid")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (tmp_path / "file.txt").write_text("first\n")
    git("add", ".")
    git("commit", "-q", "-m", "the first commit")
    return tmp_path


@pytest.fixture
def git(mesh: RunningMesh, repository: Path) -> Iterator[str]:
    """A real git server under a name of its own."""
    mesh.mesh("server", "add", "git", "--", GIT_SERVER, "--repository", str(repository))
    yield str(repository)
    mesh.mesh("server", "remove", "git", check=False)


def row(mesh: RunningMesh, name: str) -> list[str]:
    for line in mesh.mesh("server", "list").stdout.splitlines():
        if line.split()[:1] == [name]:
            return line.split()
    return []


def git_processes(mesh: RunningMesh) -> list[Process]:
    return [p for p in mesh.children_of("runner-1") if "mcp-server-git" in p.command]


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools(cache_mode="refresh")).tools}


async def test_git_server_is_added_called_restarted_and_removed_while_clients_are_connected(
    mesh: RunningMesh, git: str
) -> None:
    async with Client(mesh.mcp, mode="auto", read_timeout_seconds=20) as client:
        assert "git__git_log" in await names(client)
        told = await client.call_tool("git:git_log", {"repo_path": git})
        assert "the first commit" in told.content[0].text
        assert row(mesh, "git")[2] == "running"

        (before,) = git_processes(mesh)
        await asyncio.to_thread(mesh.mesh, "server", "restart", "git")
        await eventually(
            lambda: git_processes(mesh) not in ([], [before]), timeout_s=10, what="a new child"
        )
        async with asyncio.timeout(10):
            while True:
                again = await client.call_tool("git__git_status", {"repo_path": git})
                if not again.is_error:
                    break
        assert "main" in again.content[0].text

        await asyncio.to_thread(mesh.mesh, "server", "remove", "git")

        async def unlisted() -> bool:
            return "git__git_log" not in await names(client)

        await eventually(unlisted, what="the tools are gone")
        assert "time__get_current_time" in await names(client)
        await eventually(lambda: not git_processes(mesh), what="the child is gone")


async def test_clients_are_told_that_the_list_has_changed(
    mesh: RunningMesh, repository: Path
) -> None:
    async with lines(mesh.tcp) as peer:
        await peer.initialize()
        add = ("server", "add", "told", "--", GIT_SERVER, "--repository", str(repository))
        await asyncio.to_thread(mesh.mesh, *add)
        try:
            note = await peer.read(5)
            assert note["method"] == "notifications/tools/list_changed"
        finally:
            await asyncio.to_thread(mesh.mesh, "server", "remove", "told")


async def test_program_that_is_no_mcp_server_fails_clearly_and_harms_nobody(
    mesh: RunningMesh,
) -> None:
    pids = mesh.pids
    try:
        added = [
            asyncio.to_thread(
                mesh.mesh, "server", "add", name, "--wait", "6s", "--", *words, check=False
            )
            for name, *words in (("bogus", "echo", "hello"), ("missing", "no-such-program"))
        ]
        for done, reason in zip(
            await asyncio.gather(*added), ("is it an MCP server?", "No such file"), strict=True
        ):
            assert done.returncode != 0
            assert reason in done.stderr
            assert "Traceback" not in done.stderr
        async with lines(mesh.tcp) as peer:
            assert not (await peer.call("time:get_current_time", timezone="UTC")).get("isError")
            assert "result" in await peer.request("tools/list")
            refused = await peer.request("tools/call", {"name": "bogus__x", "arguments": {}})
            assert refused["error"]["code"] == -32602
        assert row(mesh, "bogus")[2] in {"failing", "quarantined"}
        # Quarantined, not restarted without end.
        log = (mesh.state / "logs" / "runner-1.log").read_text()
        assert log.count('"server":"bogus"') < 60
        assert mesh.pids == pids
    finally:
        mesh.mesh("server", "remove", "bogus")
        mesh.mesh("server", "remove", "missing")
    assert row(mesh, "bogus") == []


def test_names_that_cannot_be_and_servers_that_are_not_there_are_refused(mesh: RunningMesh) -> None:
    for name in ("a__b", "a b", "kv", "x" * 100, ""):
        done = mesh.mesh("server", "add", name, "--", "true", check=False)
        assert done.returncode != 0, name
        assert "Traceback" not in done.stderr
    again = mesh.mesh("server", "remove", "missing", check=False)
    assert again.returncode != 0
    assert "missing" in again.stderr


def test_server_gets_only_the_environment_it_was_given(lab: RunningMesh) -> None:
    told = lab.mesh("call", "lab:variables").stdout
    assert "PATH" in told
    assert "MESH_TEST_RUN" not in told  # of mesh up itself
    assert "NATS" not in told
    assert "TOKEN" not in told


async def test_server_that_writes_noise_is_served_on_and_its_noise_goes_to_the_log(
    lab: RunningMesh,
) -> None:
    pids = lab.pids
    async with lines(lab.tcp) as peer:
        noisy = await peer.post(
            "tools/call", {"name": "lab__noise", "arguments": {"bytes": 20_000_000}}
        )
        for number in range(20):
            assert (await peer.call("echo", message=number))["structuredContent"]
        assert (await peer.answer(noisy, 20))["result"]["content"][0]["text"] == "made some noise"
        assert (await peer.call("lab__echo", text="x"))["content"][0]["text"] == "x"
    log = lab.state / "logs" / "runner-1.log"
    assert "this is not JSON" in log.read_text()
    assert log.stat().st_size < 5_000_000
    assert lab.pids == pids


async def test_server_that_crashes_again_and_again_harms_nobody(mesh: RunningMesh) -> None:
    program = "import sys, json; sys.stdin.readline(); sys.exit(3)"
    mesh.mesh("server", "add", "loop", "--wait", "0s", "--", sys.executable, "-c", program)
    try:
        log = mesh.state / "logs" / "runner-1.log"
        await eventually(lambda: '"server":"loop"' in log.read_text(), what="its first end")
        async with lines(mesh.tcp) as peer:
            for _ in range(20):
                assert not (await peer.call("time:get_current_time", timezone="UTC")).get("isError")
        starts = log.read_text().count('"server":"loop"')
        assert starts < 20
    finally:
        mesh.mesh("server", "remove", "loop")
