"""Servers behind an address: added, called, gone, back and removed while everything runs."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mcp import Client, MCPError
from mcp.types import ElicitRequestParams, ElicitResult
from tests.e2e.running_mesh import RunningMesh

pytestmark = pytest.mark.slow

FAR = Path(__file__).parent / "servers" / "far.py"


class Far:
    """The official server in a process of its own."""

    def __init__(self, transport: str, port: int = 0) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(FAR), transport, str(port)], stdout=subprocess.PIPE, text=True
        )
        assert self._child.stdout is not None
        self.url = self._child.stdout.readline().strip()
        self.port = int(self.url.split(":")[2].split("/")[0])

    def stop(self) -> None:
        self._child.kill()
        self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()


@pytest.fixture
def far() -> Iterator[Callable[..., Far]]:
    started: list[Far] = []

    def start(transport: str = "http", port: int = 0) -> Far:
        started.append(Far(transport, port))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def state(mesh: RunningMesh, name: str) -> str:
    for line in mesh.mesh("server", "list").stdout.splitlines():
        if line.split()[:1] == [name]:
            return line
    return ""


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_tool_of_a_server_over_http_is_called_by_clients_of_both_eras(
    mesh: RunningMesh, far: Callable[..., Far], transport: str, mode: str
) -> None:
    server = far(transport)
    name = f"far-{transport}-{mode}"
    said = await asyncio.to_thread(
        mesh.mesh, "server", "add", name, server.url, "--transport", transport
    )
    assert "3 tools" in said.stdout
    try:
        async with Client(mesh.mcp, mode=mode, read_timeout_seconds=20) as client:
            heard: list[float] = []

            async def progress(at: float, _total: float | None, _message: str | None) -> None:
                heard.append(at)

            added = await client.call_tool(f"{name}__add", {"a": 2, "b": 3})
            assert added.content[0].text == "5"
            done = await client.call_tool(f"{name}:steps", {"count": 3}, progress_callback=progress)
            assert done.content[0].text == "done"
            assert heard == [1, 2, 3]
            note = await client.read_resource("note://far")
            assert note.contents[0].text == "from afar"
    finally:
        await asyncio.to_thread(mesh.mesh, "server", "remove", name)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_old_way_of_asking_over_http_reaches_clients_of_both_eras(
    mesh: RunningMesh, far: Callable[..., Far], mode: str
) -> None:
    async def elicit(_context: object, params: ElicitRequestParams) -> ElicitResult:
        assert "Sure?" in params.message
        return ElicitResult(action="accept", content={"sure": True})

    server = far()
    name = f"asks-{mode}"
    await asyncio.to_thread(mesh.mesh, "server", "add", name, server.url, "--era", "legacy")
    try:
        async with Client(
            mesh.mcp, mode=mode, read_timeout_seconds=20, elicitation_callback=elicit
        ) as client:
            ordered = await client.call_tool(f"{name}__order", {})
            assert ordered.content[0].text == "accept True"
    finally:
        await asyncio.to_thread(mesh.mesh, "server", "remove", name)


async def test_server_that_goes_away_says_so_and_serves_again_when_it_is_back(
    mesh: RunningMesh, far: Callable[..., Far]
) -> None:
    server = far()
    await asyncio.to_thread(mesh.mesh, "server", "add", "far", server.url)
    try:
        async with Client(mesh.mcp, mode="auto", read_timeout_seconds=20) as client:
            server.stop()
            with pytest.raises(MCPError, match=r"cannot be reached|broke") as caught:
                await client.call_tool("far__add", {"a": 1, "b": 1})
            assert caught.value.error.data["outcome"] in {"not_executed", "unknown"}
            assert "REASON" in state(mesh, "SERVER")
            far(port=server.port)
            async with asyncio.timeout(30):
                while True:
                    try:
                        again = await client.call_tool("far__add", {"a": 1, "b": 1})
                        break
                    except MCPError:
                        await asyncio.sleep(0.2)
            assert again.content[0].text == "2"
            assert "running" in state(mesh, "far")
    finally:
        await asyncio.to_thread(mesh.mesh, "server", "remove", "far")


def test_tenants_server_on_this_machine_is_not_run_and_the_reason_is_shown(
    mesh: RunningMesh, far: Callable[..., Far]
) -> None:
    server = far()
    said = mesh.mesh(
        "server", "add", "near", server.url, "--tenant", "demo-tenant", "--wait", "10s", check=False
    )
    try:
        assert said.returncode != 0
        assert "loopback address" in said.stderr + said.stdout
    finally:
        mesh.mesh("server", "remove", "near", "--tenant", "demo-tenant")


def test_definition_that_holds_a_secret_is_refused_before_it_is_sent(mesh: RunningMesh) -> None:
    said = mesh.mesh(
        "server", "add", "leaky", "https://example.invalid/mcp", "--bearer", "s3cret", check=False
    )
    assert said.returncode != 0
    assert "env:NAME, file:PATH or aws:NAME" in said.stderr + said.stdout
    assert "s3cret" not in said.stderr + said.stdout
