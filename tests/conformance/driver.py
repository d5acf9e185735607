"""The client of the client leg: a person with the official client, in front of a running mesh.

``python -m tests.conformance.driver ROOM GATEWAY SERVER_URL``: makes the suite's mock server an
upstream of the mesh in folder ROOM, does through GATEWAY what the scenario wants, removes it again.
What the mock server sees is the tool-runner's doing.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp import Client
from mcp.shared.exceptions import MCPError
from tests.e2e.running_mesh import MESH, PLAIN_ENVIRONMENT

_STUBS = {"string": "x", "integer": 0, "number": 0, "boolean": False, "object": {}, "array": []}
Act = Callable[[Any], Awaitable[None]]


async def _accept(context: Any, params: Any) -> types.ElicitResult:
    """Accept with the defaults of the schema; agree to what is asked."""
    schema: dict[str, Any] = getattr(params, "requested_schema", None) or {}
    properties: dict[str, Any] = schema.get("properties", {})
    content = {name: one["default"] for name, one in properties.items() if "default" in one}
    for name, one in properties.items():
        if one.get("type") == "boolean":
            content.setdefault(name, True)
    return types.ElicitResult(action="accept", content=content)


async def _sample(context: Any, params: Any) -> types.CreateMessageResult:
    said = types.TextContent(type="text", text="said")
    return types.CreateMessageResult(role="assistant", content=said, model="none")


async def _roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


async def _list(client: Any) -> None:
    await client.list_tools()


async def _add(client: Any) -> None:
    await client.list_tools()
    await client.call_tool("add_numbers", {"a": 5, "b": 3})


async def _call(name: str, client: Any) -> None:
    await client.list_tools()
    await client.call_tool(name, {})


async def _state(client: Any) -> None:
    await client.list_tools()
    for name in ("echo_state", "unrelated", "no_state", "no_result_type"):
        await client.call_tool(f"test_mrtr_{name}", {})


async def _every(client: Any) -> None:
    for tool in (await client.list_tools()).tools:
        wanted = tool.input_schema.get("properties", {})
        needed = tool.input_schema.get("required", [])
        arguments = {name: _STUBS.get(wanted.get(name, {}).get("type"), "x") for name in needed}
        await _try(client, tool.name, arguments)


async def _everything(client: Any) -> None:
    await _every(client)
    for resource in (await client.list_resources()).resources:
        await client.read_resource(resource.uri)
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name, {})


async def _replay(client: Any) -> None:
    listed = {tool.name for tool in (await client.list_tools()).tools}
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    for one in context.get("toolCalls", []):
        if one["name"] in listed:
            await _try(client, one["name"], one.get("arguments") or {})


async def _try(client: Any, name: str, arguments: dict[str, Any]) -> None:
    try:
        await client.call_tool(name, arguments)
    except (MCPError, TimeoutError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)


async def _echo_schema(client: Any) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    schema = tools["json_schema_2020_12_tool"].input_schema
    await client.call_tool("json_schema_echo", {"schema": schema})


async def _call_test_tool(client: Any) -> None:
    await _call("test-tool", client)


_ACTS: dict[str, Act] = {
    "auth/scope-step-up": _call_test_tool,
    "auth/authorization-server-migration": _call_test_tool,
    "initialize": _list,
    "json-schema-ref-no-deref": _list,
    "json-schema-2020-12-preservation": _echo_schema,
    "tools_call": _add,
    "request-metadata": _list,
    "http-standard-headers": _everything,
    "http-custom-headers": _replay,
    "http-invalid-tool-headers": _every,
    "sep-2322-client-request-state": _state,
    "sse-retry": lambda client: _call("test_reconnection", client),
    "elicitation-sep1034-client-defaults": lambda client: _call(
        "test_client_elicitation_defaults", client
    ),
}
"""What is done in front of the mesh, by scenario; every other one only calls a tool."""


CLIENT_DOCUMENT = "https://conformance-test.local/client-metadata.json"
"""Fixed by the suite, which never fetches it."""


def _authorization(room: str, name: str, scenario: str, url: str) -> list[str]:
    """What an operator would say of the server's authorization."""
    if not scenario.startswith("auth/"):
        return []
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    credentials = scenario.startswith("auth/client-credentials")
    words = ["--oauth", "client_credentials" if credentials else "authorization_code"]
    if scenario == "auth/basic-cimd":
        words += ["--oauth-client-metadata", CLIENT_DOCUMENT]
    if "client_secret" in context:
        place = Path(room) / f"{name}.secret"
        place.touch(0o600)
        place.write_text(context["client_secret"])
        issuer = context.get("issuer") or _issuer(url)
        words += ["--oauth-client-id", context["client_id"], "--oauth-secret", f"file:{place}"]
        words += ["--oauth-issuer", issuer]
    return words


def _issuer(url: str) -> str:
    """The authorization server of a scenario that names none: an operator would know it."""
    base, path = url.rsplit("/", 1)
    with urllib.request.urlopen(f"{base}/.well-known/oauth-protected-resource/{path}") as answer:
        return json.load(answer)["authorization_servers"][0]


def _mesh(room: str, *words: str) -> None:
    done = subprocess.run(
        [MESH, *words],
        cwd=room,
        env=PLAIN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"mesh {' '.join(words)}: {done.stderr}")


async def _act(url: str, scenario: str) -> None:
    # The room's client is modern for both wires: the era of the upstream is the runner's business.
    async with Client(
        url,
        mode="2026-07-28",
        sampling_callback=_sample,
        list_roots_callback=_roots,
        elicitation_callback=_accept,
        read_timeout_seconds=30,
    ) as client:
        await _ACTS.get(scenario, _list)(client)


def main() -> int:
    """Entry of the process; the scenario comes in the environment."""
    room, gateway, url = sys.argv[1:4]
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    name = f"leg-{secrets.token_hex(4)}"
    words = _authorization(room, name, scenario, url)
    added = ("server", "add", name, url, "--allow-private", "localhost", "--wait", "20s", *words)
    try:
        _mesh(room, *added)
    except SystemExit:
        subprocess.run(
            [MESH, "server", "remove", name], cwd=room, env=PLAIN_ENVIRONMENT, check=False
        )
        raise  # as the reason it is, not hidden by the second failure
    try:
        asyncio.run(_act(f"{gateway}/mcp/u/{name}", scenario))
    finally:
        _mesh(room, "server", "remove", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
