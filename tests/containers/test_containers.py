"""Broker and services as containers: a real client, keys, a killed runner, a clean stop."""

import json
import time
from collections.abc import Callable

import httpx
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from tests.containers.conftest import ContainerMesh

pytestmark = [pytest.mark.containers, pytest.mark.timeout(240)]


@pytest.fixture(scope="session")
def key(mesh: ContainerMesh) -> str:
    """An API key of a tenant whose rules allow everything."""
    eventually(lambda: mesh.command("tenant", "list") != "")
    mesh.command("tenant", "add", "acme", "--allow", "*")
    mesh.command("principal", "add", "ada", "--tenant", "acme", "--role", "User")
    return json.loads(
        mesh.command("key", "create", "--tenant", "acme", "--principal", "ada", "--json")
    )["key"]


def eventually(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Return once ``holds()`` is true; the last error is raised when it never is."""
    end = time.monotonic() + limit_s
    while True:
        try:
            if holds():
                return
            problem: Exception = AssertionError("never true")
        except (AssertionError, httpx.HTTPError) as error:
            problem = error
        if time.monotonic() > end:
            raise problem
        time.sleep(0.2)


def call(mesh: ContainerMesh, key: str, tool: str, arguments: dict[str, object]) -> httpx.Response:
    """``POST /tools/<tool>``."""
    return httpx.post(
        f"{mesh.http}/tools/{tool}",
        json=arguments,
        headers={"authorization": f"Bearer {key}"},
        timeout=10,
    )


def test_every_container_is_ready_without_a_hand(mesh: ContainerMesh, key: str) -> None:
    def ready() -> bool:
        answer = httpx.get(f"{mesh.http}/ready", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        return True

    eventually(ready)
    # Beyond loopback even health is not for strangers.
    assert httpx.get(f"{mesh.http}/ready").status_code == 401


def test_no_credential_is_no_service(mesh: ContainerMesh) -> None:
    assert httpx.post(f"{mesh.http}/tools/echo", json={}).status_code == 401


async def test_a_real_client_calls_native_and_upstream_tools(mesh: ContainerMesh, key: str) -> None:
    eventually(lambda: call(mesh, key, "time__get_current_time", {"timezone": "UTC"}).is_success)
    transport = StreamableHttpTransport(
        f"{mesh.http}/mcp", headers={"authorization": f"Bearer {key}"}
    )
    async with Client(transport) as client:
        names = {tool.name for tool in await client.list_tools()}
        assert {"kv_get", "kv_set", "echo", "time__get_current_time"} <= names
        await client.call_tool("kv_set", {"key": "a", "value": 7})
        got = await client.call_tool("kv_get", {"key": "a"})
        assert got.structured_content is not None
        assert got.structured_content["value"] == 7
        now = await client.call_tool("time__get_current_time", {"timezone": "UTC"})
        assert "UTC" in str(now.content)


def test_a_killed_runner_is_replaced_by_the_other(mesh: ContainerMesh, key: str) -> None:
    for instance in ("runner-1", "runner-2"):
        container = mesh.containers[instance].get_wrapped_container()
        container.kill("SIGKILL")
        eventually(
            lambda: call(mesh, key, "time__get_current_time", {"timezone": "UTC"}).is_success,
            limit_s=15,
        )
        assert call(mesh, key, "kv_get", {"key": "a"}).is_success
        container.start()
        eventually(
            lambda: (
                "runner-1" in mesh.command("micro", "ls")
                and "runner-2" in mesh.command("micro", "ls")
            )
        )


def test_swarm_in_containers_runs_an_agent_and_gets_its_result(
    mesh: ContainerMesh, key: str
) -> None:
    def begun() -> bool:
        answer = call(
            mesh, key, "swarm_init", {"topology": "star", "initialAgents": [{"type": "validator"}]}
        )
        body = answer.json()
        assert answer.is_success, body
        return True

    def active() -> bool:
        return '"active"' in call(mesh, key, "agent_list", {}).text

    eventually(begun)
    eventually(active)
    answer = call(
        mesh,
        key,
        "task_orchestrate",
        {
            "task": {
                "description": "check a value",
                "phases": [{"name": "check", "input": {"value": 3, "schema": {"type": "integer"}}}],
            },
            "wait": True,
        },
    )
    assert answer.is_success, answer.text
    assert "completed" in answer.text, answer.text


def test_stopped_services_drain_and_exit_cleanly(mesh: ContainerMesh) -> None:
    order = ("gateway-1", "agent-host-1", "swarm-1", "runner-2", "runner-1")
    for instance in (*order, "registry-1", "tenant-auth-1"):
        container = mesh.containers[instance].get_wrapped_container()
        container.stop(timeout=30)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0, container.logs().decode()[-2000:]
