"""What a person types first, and what scripts of earlier systems send (compatibility E1-E13)."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e import wire
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import http, lines, request_bytes

README = Path(__file__).parents[2] / "README.md"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}\n'


def readme_blocks(language: str) -> list[str]:
    blocks: list[str] = []
    for index, part in enumerate(README.read_text().split("```")):
        said, _, body = part.partition("\n")
        if index % 2 and said == language:
            blocks.append(body)
    return blocks


def here(mesh: RunningMesh, text: str) -> str:
    """The text with this mesh's ports in place of the usual ones."""
    return (
        text.replace("127.0.0.1:3000", mesh.http.removeprefix("http://"))
        .replace("127.0.0.1 9500", f"127.0.0.1 {mesh.tcp[1]}")
        .replace("nats://127.0.0.1:4222", mesh.nats)
    )


# README --------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(readme_blocks("python"))))
def test_python_examples_of_the_readme_run_as_they_are(mesh: RunningMesh, index: int) -> None:
    script = here(mesh, readme_blocks("python")[index])
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=mesh.room,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "hello" in ran.stdout


def readme_commands() -> list[str]:
    rows = "\n".join(readme_blocks("")).splitlines()
    return [row for row in rows if row.startswith(("curl ", "printf ", "mesh "))]


def test_commands_of_the_readme_run_as_they_are(mesh: RunningMesh) -> None:
    commands = readme_commands()
    assert len(commands) >= 8
    subprocess.run(["git", "init", "-q", str(mesh.room)], check=True)  # as a clone is one
    bin_folder = Path(sys.executable).parent
    for command in commands:
        if "nc " in command and shutil.which("nc") is None:
            continue  # the same lines go through a socket below
        # What stands behind two blanks is the README's remark, not part of the command.
        typed = here(mesh, re.split(r"\s{2,}", command)[0])
        if typed.startswith("mesh server add git"):
            typed = typed.replace(".venv/bin", str(bin_folder))
        if "nc " in typed:
            # Some netcats stay connected after their input has ended: head ends with the answer.
            typed = f"{typed} | head -n 1"
        ran = subprocess.run(
            ["timeout", "30", "bash", "-c", typed],
            cwd=mesh.room,
            env={"PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = f"{typed}\n{ran.stdout}\n{ran.stderr}"
        if "nc " in typed:
            assert json.loads(ran.stdout)["id"] == 1, said
        elif typed.startswith("mesh doctor"):
            assert "Traceback" not in said, said
        else:
            assert ran.returncode == 0, said
        if "/tools/" in typed and typed.startswith("curl"):
            # curl ends with 0 whatever the answer says.
            answer = json.loads(ran.stdout)
            assert "content" in answer, said
            assert not answer.get("isError"), said
    mesh.mesh("server", "remove", "git", check=False)


async def test_one_line_and_a_closed_sending_side_get_an_answer(mesh: RunningMesh) -> None:
    """``printf … | nc HOST 9500``: the line, then FIN, then the answer, then the end."""
    for line in (PING, PING.rstrip(b"\n")):
        async with lines(mesh.tcp) as peer:
            await peer.send(line)
            peer.writer.write_eof()
            raw = await peer.closed()
        answer = json.loads(raw)
        assert answer["id"] == 1
        assert answer["result"]["status"] == "ok"
        assert abs(answer["result"]["timestamp"] - time.time() * 1000) < 10_000


def test_curl_calls_a_tool(mesh: RunningMesh) -> None:
    def curl(*words: str) -> tuple[int, dict[str, object]]:
        ran = subprocess.run(
            ["curl", "-s", "-w", "\n%{http_code}", *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        body, _, status = ran.stdout.rpartition("\n")
        return int(status), json.loads(body)

    base = mesh.http.removeprefix("http://")
    assert curl("--json", '{"key":"curl","value":7}', f"{base}/tools/kv_set")[0] == 200
    status, got = curl("--json", '{"key":"curl"}', f"{base}/tools/kv_get")
    assert status == 200
    assert got["structuredContent"]["value"] == 7  # type: ignore[index]
    status, told = curl("--json", '{"timezone":"UTC"}', f"{base}/tools/time:get_current_time")
    assert (status, told["isError"]) == (200, False)
    status, refused = curl("--json", "{}", f"{base}/tools/no_such_tool")
    assert status == 404
    assert refused["error"]["data"]["outcome"] == "not_executed"  # type: ignore[index]
    assert curl("--json", "[1]", f"{base}/tools/kv_get")[0] == 400
    assert curl("-d", '{"key":"curl"}', f"{base}/tools/kv_get")[0] == 415
    assert curl(f"{base}/tools/kv_get")[0] == 405


# TCP of earlier systems ----------------------------------------------------------------------


async def test_old_tcp_client_initializes_without_capabilities_and_gets_flat_results(
    mesh: RunningMesh,
) -> None:
    async with lines(mesh.tcp) as peer:
        answer = await peer.request(
            "initialize",
            {"protocolVersion": "2024-11-05", "clientInfo": {"name": "v", "version": "0"}},
            request_id=1,
        )
        assert answer["result"]["protocolVersion"] == "2024-11-05"
        assert "tools" in answer["result"]["capabilities"]
        # Neither `initialized` nor its synonym was sent yet, and it is served all the same.
        await peer.call("kv_set", key="flat", value="v")
        result = await peer.call("kv_get", key="flat")
        assert result["structuredContent"]["value"] == "v"
        assert (result["value"], result["found"]) == ("v", True)
        await peer.send(b'{"jsonrpc":"2.0","method":"initialized"}\n')
        assert (await peer.request("tools/list"))["result"]["tools"]


async def test_newer_clients_and_other_edges_get_no_flat_results(mesh: RunningMesh) -> None:
    async with lines(mesh.tcp) as peer:
        await peer.initialize("2025-11-25")
        assert "found" not in await peer.call("kv_get", key="flat")
    answer = await wire.post_modern(
        mesh.http, "tools/call", {"name": "kv_get", "arguments": {"key": "flat"}}
    )
    assert "found" not in answer.json["result"]


async def test_first_line_over_tcp_may_be_a_list_or_a_call(mesh: RunningMesh) -> None:
    for method, params in (
        ("tools/list", {}),
        ("tools/call", {"name": "kv_get", "arguments": {"key": "x"}}),
        ("tools/call", {"name": "time:get_current_time", "arguments": {"timezone": "UTC"}}),
    ):
        async with lines(mesh.tcp) as peer:
            assert "result" in await peer.request(method, params)


async def test_batch_answers_in_order_with_results_and_errors(mesh: RunningMesh) -> None:
    items: list[dict[str, object]] = [
        {"method": "tools/call", "params": {"name": "echo", "arguments": {"message": n}}}
        for n in range(40)
    ]
    items[7] = {"method": "no/such/method", "params": {}}
    items[9] = {"method": "ping"}
    async with lines(mesh.tcp) as peer:
        answer = await peer.request("batch", items)
        rows = answer["result"]
        assert len(rows) == 40
        assert rows[7]["error"]["code"] == -32601
        assert rows[9]["result"]["status"] == "ok"
        for n, row in enumerate(rows):
            if n not in (7, 9):
                assert row["result"]["structuredContent"]["message"] == n
        too_many = await peer.request("batch", [{"method": "ping"}] * 101)
        assert too_many["error"]["code"] in (-32602, -31012)
        assert (await peer.request("ping"))["result"]["status"] == "ok"


async def test_json_array_is_served_for_the_revision_that_has_it_only(mesh: RunningMesh) -> None:
    array = b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]\n'
    async with lines(mesh.tcp) as peer:
        await peer.initialize("2025-03-26")
        await peer.send(array)
        rows = await peer.read()
        assert [row["id"] for row in rows] == [1, 2]
    async with lines(mesh.tcp) as peer:
        await peer.initialize("2025-06-18")
        await peer.send(array)
        assert (await peer.read())["error"]["code"] == -32600


async def test_authenticate_with_a_wrong_token_is_refused_and_the_line_stays(
    mesh: RunningMesh,
) -> None:
    async with lines(mesh.tcp) as peer:
        answer = await peer.request("authenticate", {"token": "wrong"})
        assert answer["error"]["code"] == -31001
        assert answer["error"]["data"]["outcome"] == "not_executed"
        assert (await peer.request("ping"))["result"]["status"] == "ok"
        assert (await peer.request("authenticate", {}))["error"]["code"] == -32602


async def test_tenant_beside_params_selects_but_never_authorises(mesh: RunningMesh) -> None:
    async def listed(peer: wire.Lines, tenant: str) -> wire.JsonObject:
        body = {"jsonrpc": "2.0", "id": tenant, "method": "tools/list", "tenant_id": tenant}
        await peer.send(json.dumps(body).encode() + b"\n")
        return await peer.answer(tenant)

    async with lines(mesh.tcp) as peer:
        assert "result" in await listed(peer, "demo-tenant")
        refused = await listed(peer, "somebody-else")
        assert refused["error"]["code"] == -31003
        assert "result" in await listed(peer, "demo-tenant")


async def test_rate_above_the_limit_is_refused_with_the_time_to_wait(mesh: RunningMesh) -> None:
    async with lines(mesh.tcp) as peer:
        count, at_once = 160, 40  # fewer at once than may be in flight
        line = b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n'
        answers = []
        for first in range(0, count, at_once):
            await peer.send(b"".join(line % n for n in range(first, first + at_once)))
            answers += [await peer.read() for _ in range(at_once)]
        assert {answer["id"] for answer in answers} == set(range(count))
        refused = [answer["error"] for answer in answers if "error" in answer]
        assert 20 <= len(refused) <= 60
        assert {error["code"] for error in refused} == {-31016}
        waits = [error["data"]["retryAfterMs"] for error in refused]
        assert all(0 < wait < 2000 for wait in waits)
        assert {error["data"]["outcome"] for error in refused} == {"not_executed"}
        await asyncio.sleep(max(waits) / 1000)  # the time it was told to wait
        assert (await peer.request("ping"))["result"]["status"] == "ok"


# HTTP beside MCP -----------------------------------------------------------------------------


async def test_health_readiness_and_metrics_answer(mesh: RunningMesh) -> None:
    async def get(path: str) -> wire.HttpAnswer:
        return await http(mesh.http, request_bytes(mesh.http, path, b"", method="GET"))

    health = (await get("/health")).json
    assert health["status"] == "healthy"
    assert health["checks"]["nats"] == "healthy"
    assert health["agent"]
    assert health["uptime_seconds"] >= 0
    assert (await get("/ready")).json["ready"] is True
    metrics = await get("/metrics")
    assert metrics.status == 200
    assert b"mesh_calls" in metrics.body


async def test_web_page_of_another_site_is_refused(mesh: RunningMesh) -> None:
    body = json.dumps({"key": "a"}).encode()
    for path in ("/tools/kv_get", "/mcp", "/health"):
        for headers, status in (
            ({"origin": "https://evil.example"}, 403),
            ({"origin": "null"}, 403),
            ({"host": "evil.example"}, 421),
        ):
            raw = request_bytes(mesh.http, path, body, headers)
            assert (await http(mesh.http, raw)).status == status, (path, headers)


async def test_client_configuration_names_this_mesh(mesh: RunningMesh) -> None:
    for name in ("claude-desktop", "claude-code", "cursor", "vscode", "codex"):
        told = mesh.mesh("client-config", name).stdout
        assert str(mesh.state) in told or mesh.mcp in told


async def test_call_and_tools_commands_work(mesh: RunningMesh) -> None:
    assert "time__get_current_time" in mesh.mesh("tools").stdout
    assert "UTC" in mesh.mesh("call", "time:get_current_time", "timezone=UTC").stdout
    assert "gateway" in mesh.mesh("micro", "ls").stdout
