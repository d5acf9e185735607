"""``mesh_sdk``'s client and manager against a mesh as a user has it."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.running_mesh import PLAIN_ENVIRONMENT, RunningMesh
from tests.peers import require

from mcp_proto.errors import ErrorKind
from mesh_sdk import Client, Manager, MeshCallError, Progress, ToolResult, blocking

LAB = Path(__file__).parent / "servers" / "lab.py"
WATCHED = Path(__file__).parent / "servers" / "watched.py"


@pytest.fixture(autouse=True)
def _here(lab: RunningMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a program that runs in the folder of the mesh."""
    monkeypatch.chdir(lab.room)
    for name in ("MESH_URL", "MESH_KEY", "NATS_URL", "MCP_AUTH_TOKEN", "MESH_NKEY_SEED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["found", "http", "tcp"])
def url(request: pytest.FixtureRequest, lab: RunningMesh) -> str | None:
    host, port = lab.tcp
    return {"found": None, "http": lab.http, "tcp": f"tcp://{host}:{port}"}[request.param]


async def test_client_finds_the_mesh_and_calls_by_every_address(url: str | None) -> None:
    async with Client(url) as client:
        assert (await client.call_tool("echo", {"message": "hi"})).structured == {"message": "hi"}
        names = {tool.name for tool in await client.list_tools()}
        assert {"echo", "kv_get", "lab__sleep"} <= names
        steps: list[Progress] = []
        done = await client.call_tool("lab", "steps", {"steps": 3}, progress=steps.append)
        assert not done.is_error
        assert len(steps) == 3


async def test_task_outlives_its_client_and_is_fetched_by_its_id(url: str | None) -> None:
    async with Client(url) as client:
        task = await client.call_tool_as_task("lab__sleep", {"seconds": 0.5})
        assert (await task.status()).status in {"working", "completed"}
    async with Client(url) as later:
        handle = later.task(task.id)
        result = await handle.result(timeout_s=20)
        assert not result.is_error
        assert (await handle.status()).status == "completed"


async def test_task_that_is_cancelled_says_so(url: str | None) -> None:
    async with Client(url) as client:
        task = await client.call_tool_as_task("lab__sleep", {"seconds": 30})
        with pytest.raises(MeshCallError) as late:
            await task.wait(timeout_s=0.2)
        assert late.value.kind is ErrorKind.DEADLINE
        await task.cancel()
        assert (await task.wait(timeout_s=20)).status == "cancelled"
        with pytest.raises(MeshCallError):
            await task.result(timeout_s=5)


async def test_manager_deploys_calls_looks_after_and_shuts_down(lab: RunningMesh) -> None:
    async with Manager({"max_concurrent_operations": 4, "enable_metrics": True}) as manager:
        made = await manager.deploy_server(
            {
                "name": "mine",
                "type": "custom",
                "command": sys.executable,
                "args": [str(LAB)],
                "max_connections": 8,
            }
        )
        done = await asyncio.gather(
            *(manager.execute_tool(made, "echo", {"text": "x"}) for _ in range(8)),
            return_exceptions=True,
        )
        assert all(isinstance(one, ToolResult) for one in done), done
        assert manager.metrics()["mine:echo"].calls == 8
        health = await manager.get_server_health(made)
        assert health["status"] == "healthy", health
        assert health.latency_ms is not None
        assert health.tools > 0
        await manager.shutdown_server(made)
        with pytest.raises(MeshCallError) as gone:
            await manager.get_server_health(made)
        assert gone.value.kind is ErrorKind.NOT_FOUND
        again = await manager.deploy_server(
            {"name": "mine", "command": sys.executable, "args": [str(LAB)]}
        )
    async with Manager() as other:
        with pytest.raises(MeshCallError):
            await other.get_server_health(again)


@pytest.mark.slow
async def test_server_that_does_not_come_up_is_said_and_leaves_nothing() -> None:
    async with Manager({"connection_timeout": 8}) as manager:
        with pytest.raises(MeshCallError) as failed:
            await manager.deploy_server({"name": "bad", "command": "echo", "args": ["no"]})
        assert "bad does not come up" in failed.value.message
        assert failed.value.safe_to_repeat
        with pytest.raises(MeshCallError):
            await manager.get_server_health("bad")
        with pytest.raises(MeshCallError, match="type must be one of"):
            await manager.deploy_server({"name": "bad", "type": "mainframe"})


def test_blocking_twins_do_the_same_without_asyncio(lab: RunningMesh) -> None:
    with blocking.Client() as client:
        assert client.call_tool("echo", {"message": "hi"}).structured == {"message": "hi"}
        assert "echo" in {tool.name for tool in client.list_tools()}
        events = list(client.stream_tool("lab__steps", {"steps": 2}))
        assert isinstance(events[-1], ToolResult)
        seen: list[Progress] = []
        client.call_tool("lab__steps", {"steps": 2}, progress=seen.append)
        assert len(seen) == 2
        done = client.batch([("echo", {"message": "a"}), ("nothing", {})])
        assert isinstance(done[0], ToolResult)
        assert isinstance(done[1], MeshCallError)
        assert not client.call_tool_as_task("lab__sleep", {"seconds": 0.1}).result(20).is_error
    with blocking.Manager() as manager, pytest.raises(MeshCallError):
        manager.get_server_health("nothing")


@pytest.fixture
def waiting_program(lab: RunningMesh) -> Iterator[subprocess.Popen[str]]:
    code = (
        "from mesh_sdk.blocking import Client\n"
        "try:\n"
        "    with Client() as client:\n"
        "        print('calling', flush=True)\n"
        "        client.call_tool('lab__sleep', {'seconds': 30})\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=lab.room,
        env=PLAIN_ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield child
    if child.poll() is None:
        child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def test_interrupted_blocking_call_ends_at_once(waiting_program: subprocess.Popen[str]) -> None:
    assert waiting_program.stdout is not None
    assert waiting_program.stdout.readline() == "calling\n"
    os.kill(waiting_program.pid, signal.SIGINT)
    assert waiting_program.stdout.readline() == "interrupted\n"
    assert waiting_program.wait(10) == 0


async def test_updates_of_a_subscribed_resource_are_heard(url: str | None) -> None:
    async with Manager({"keep_servers": True}) as manager:
        try:
            await manager.deploy_server(
                {"name": "watched", "command": sys.executable, "args": [str(WATCHED), "new"]}
            )
            async with Client(url) as client:
                uri = (await client.list_resources("watched"))[0].uri
                async with client.subscribe(uri, "memo://nowhere") as updates:
                    assert updates.refused == {"memo://nowhere"}
                    await client.call_tool("watched", "touch", {"text": uri})
                    async with asyncio.timeout(15):
                        assert (await anext(updates)).uri == uri
        finally:
            await manager.shutdown_server("watched")


SERVER = """\
from mesh_sdk import quick_start_server

server = quick_start_server("greeter")

@server.tool
def greet(name: str) -> str:
    return f"Hello {name}"

server.run()
"""
CLIENT = """\
import asyncio
from mesh_sdk import quick_start_client

async def main():
    async with quick_start_client() as client:
        print((await client.call_tool("greeter", "greet", {"name": "Ann"})).text)

asyncio.run(main())
"""


def test_quick_start_is_a_server_and_a_client_of_under_ten_lines(lab: RunningMesh) -> None:
    assert max(SERVER.count("\n"), CLIENT.count("\n")) < 10
    server = subprocess.Popen([sys.executable, "-c", SERVER], cwd=lab.room, env=PLAIN_ENVIRONMENT)
    try:
        with blocking.Client() as client:
            until = time.monotonic() + 20
            while "greeter__greet" not in {tool.name for tool in client.list_tools()}:
                assert time.monotonic() < until
                assert server.poll() is None
                time.sleep(0.1)
        done = subprocess.run(
            [sys.executable, "-c", CLIENT],
            cwd=lab.room,
            env=PLAIN_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.stdout == "Hello Ann\n", done.stderr
    finally:
        server.terminate()
        server.wait(20)


EXAMPLE = Path(__file__).parents[2] / "libs/mesh_sdk/tests/manager/manager_example.py"
GUIDE = Path(__file__).parents[2] / "docs/guides/use-the-client.md"
SOCKET = Path("/var/run/docker.sock")


@pytest.fixture
def usual_engine() -> Iterator[None]:
    """A Docker engine where everybody looks for one."""
    dockerd = require("dockerd")
    if SOCKET.exists():
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("dockerd needs root")
    with (
        tempfile.TemporaryDirectory(prefix="mesh-dockerd-") as folder,
        Path(folder, "log").open("wb") as log,
    ):
        process = subprocess.Popen(
            [dockerd, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec",
             "--pidfile", f"{folder}/pid", "--host", f"unix://{SOCKET}", "--iptables=false",
             "--bridge=none", "--storage-driver=vfs"],
            stdout=log,
            stderr=log,
        )  # fmt: skip
        try:
            until = time.monotonic() + 30
            while not SOCKET.exists():
                assert process.poll() is None, Path(folder, "log").read_text()[-2000:]
                assert time.monotonic() < until
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(30)
            SOCKET.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.usefixtures("usual_engine")
def test_example_of_the_server_manager_runs_with_only_its_import_changed(lab: RunningMesh) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=lab.room,
        env=PLAIN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["2", "healthy"]


def test_guide_shows_the_example_that_is_tested() -> None:
    code = EXAMPLE.read_text().partition('"""\n\n')[2]
    assert code in GUIDE.read_text()
