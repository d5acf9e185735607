"""A server that wants a person's consent: said plainly, given with ``mesh server login``."""

import asyncio
import importlib.util
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from mcp import Client
from starlette.responses import Response
from tests.e2e.running_mesh import MESH, PLAIN_ENVIRONMENT, RunningMesh

pytestmark = pytest.mark.slow

SCRIPTED = Path(__file__).parents[2] / "services" / "tool-runner" / "tests" / "upstreams"


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTED / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Base URL of an application in this loop."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    listening = socket.create_server(("127.0.0.1", 0))
    task = asyncio.ensure_future(server._serve([listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait([task], timeout=5)
        listening.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


async def listed(client: Any, tool: str) -> None:
    """Wait until a tool is listed."""
    for _ in range(100):
        if tool in [one.name for one in (await client.list_tools()).tools]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{tool} is not listed")


async def test_operator_signs_in_to_a_server_and_its_tools_are_there(mesh: RunningMesh) -> None:
    scripted, authority = _load("scripted"), _load("authority")
    issuer = authority.Authority()
    guard = authority.Guard(scripted.New(), issuer)
    usual = issuer.authorize

    async def page(request: Any) -> Any:
        if "mcp-mesh" in request.headers["user-agent"]:
            return Response("<form>May this client?</form>", media_type="text/html")
        return usual(request)

    issuer.instead["/authorize"] = page
    async with served(issuer.app()) as issuer.base, served(guard.app()) as guard.base:
        back = f"http://127.0.0.1:{free_port()}/callback"
        added = await asyncio.to_thread(
            mesh.mesh, "server", "add", "shy", f"{guard.base}/mcp", "--oauth",
            "authorization_code", "--oauth-redirect", back, "--allow-private", "127.0.0.1",
            "--wait", "20s", check=False,
        )  # fmt: skip
        try:
            assert "mesh server login shy" in added.stderr
            login = await asyncio.create_subprocess_exec(
                MESH, "server", "login", "shy", cwd=mesh.room, env=PLAIN_ENVIRONMENT,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            assert login.stdout is not None
            async with asyncio.timeout(30):
                url = ""
                while not url.startswith("http"):
                    line = await login.stdout.readline()
                    assert line, "it ended without a page to open"
                    url = line.decode().strip()
                async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as browser:
                    for foreign in (back, f"{back}?code=c&state=guessed"):
                        assert (await browser.get(foreign)).status_code == 404
                    assert "close this page" in (await browser.get(url)).text
                rest = await login.stdout.read()
                assert await login.wait() == 0, rest
            assert b"signed in to shy" in rest
            async with Client(mesh.mcp, mode="2026-07-28", read_timeout_seconds=20) as client:
                await listed(client, "shy__echo")
                await client.call_tool("shy__echo", {})
            assert len(issuer.forms) == 1
        finally:
            await asyncio.to_thread(mesh.mesh, "server", "remove", "shy")


async def test_login_to_what_wants_none_is_refused(mesh: RunningMesh) -> None:
    said = await asyncio.to_thread(mesh.mesh, "server", "login", "nothing", check=False)
    assert said.returncode != 0
    assert "no runner holds server nothing" in said.stderr
