"""The broker is killed, frozen and away: errors with an outcome soon, then recovery by itself."""

import asyncio
import json
import signal
import time

import pytest
from tests.chaos.acting import Counted, answered_within, call
from tests.e2e import wire
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import http, lines, post_mcp, request_bytes

BROKER = "nats-server"
ANSWERED_S = 3.0
RECOVERED_S = 5.0
AWAY = {-31010, -31011, -31014, -31017, -31018}


async def session(base: str) -> dict[str, str]:
    info = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "chaos", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}
    answer = await post_mcp(base, body)
    return {
        "mcp-session-id": answer.headers["mcp-session-id"],
        "mcp-protocol-version": "2025-11-25",
    }


async def ping(base: str, headers: dict[str, str]) -> int:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    return (await post_mcp(base, body, headers)).status


async def ready(base: str) -> int:
    return (await http(base, request_bytes(base, "/ready", b"", method="GET"))).status


def check_lost(answer: wire.HttpAnswer, outcomes: set[str]) -> None:
    error = answer.json["error"]
    # 503: who calls could not be checked, so the transport itself refused.
    assert answer.status == (503 if error["message"].startswith("credentials") else 200)
    assert error["code"] in AWAY, error
    assert error["data"]["outcome"] in outcomes, error


async def everything_works_again(mesh: RunningMesh, sessions: list[dict[str, str]]) -> None:
    for base in mesh.urls:
        for tool in ("echo", "lab__pid"):
            await answered_within(RECOVERED_S, lambda t=tool, b=base: call(b, t))
        for headers in sessions:
            assert await ping(base, headers) == 200


@pytest.mark.slow
async def test_broker_killed_and_started_again_loses_nothing_that_was_stored(
    mesh_pair: RunningMesh,
) -> None:
    base = mesh_pair.http
    pids = {name: pid for name, pid in mesh_pair.pids.items() if name != BROKER}
    sessions = [await session(one) for one in mesh_pair.urls]
    for number in range(20):
        stored = await call(base, "kv_set", key=f"kept-{number}", value=number)
        assert stored.json["result"]
    async with lines(mesh_pair.tcp) as peer:
        await peer.initialize()
        pending = await Counted(mesh_pair).start(5, base, 20)
        old = mesh_pair.kill(BROKER)
        killed = time.monotonic()
        for answer in await asyncio.gather(*pending):
            check_lost(answer, {"unknown"})
        assert time.monotonic() - killed < ANSWERED_S
        # While it is away: refused at once, and the connection of a line client stays.
        began = time.monotonic()
        refused = await peer.request("tools/call", {"name": "echo", "arguments": {}})
        if "error" in refused:
            assert time.monotonic() - began < 1.0
            assert refused["error"]["code"] in AWAY
            assert refused["error"]["data"]["outcome"] == "not_executed"
        await asyncio.to_thread(mesh_pair.await_restart, BROKER, old)
        await everything_works_again(mesh_pair, sessions)
        assert time.monotonic() - killed < 8.0
        assert (await peer.call("echo", message=1))["structuredContent"] == {"message": 1}
    for number in range(20):
        got = await call(base, "kv_get", key=f"kept-{number}")
        assert got.json["result"]["structuredContent"]["value"] == number
    assert {name: pid for name, pid in mesh_pair.pids.items() if name != BROKER} == pids


@pytest.mark.slow
async def test_frozen_broker_is_noticed_and_forgiven(mesh_pair: RunningMesh) -> None:
    base = mesh_pair.http
    pids = mesh_pair.pids
    sessions = [await session(one) for one in mesh_pair.urls]
    await call(base, "kv_set", key="frozen", value="kept")
    pending = await Counted(mesh_pair).start(3, base, 20)
    mesh_pair.kill(BROKER, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        for answer in await asyncio.gather(*pending):
            check_lost(answer, {"unknown"})
        assert time.monotonic() - stopped < ANSWERED_S
        # By now both gateways know: refused at once, nothing hangs.
        for gateway in mesh_pair.urls:
            began = time.monotonic()
            check_lost(await call(gateway, "echo"), {"not_executed", "unknown"})
            assert time.monotonic() - began < ANSWERED_S
            assert await ready(gateway) == 503
        while time.monotonic() - stopped < 5.0:
            answer = await call(base, "echo")
            check_lost(answer, {"not_executed", "unknown"})
            await asyncio.sleep(0.1)
    finally:
        mesh_pair.kill(BROKER, signal.SIGCONT)
    await everything_works_again(mesh_pair, sessions)
    got = await call(base, "kv_get", key="frozen")
    assert got.json["result"]["structuredContent"]["value"] == "kept"
    assert mesh_pair.pids == pids, "nobody needed a restart"


@pytest.mark.slow
async def test_broker_away_is_refused_at_once_and_readiness_says_so(
    mesh_pair: RunningMesh,
) -> None:
    """Killed again and again while calls go on: each gets a result or an error with outcome."""
    base = mesh_pair.urls[1]
    end = asyncio.Event()
    answers: list[tuple[float, wire.HttpAnswer]] = []

    async def load() -> None:
        while not end.is_set():
            began = time.monotonic()
            answer = await call(base, "echo", message="x")
            answers.append((time.monotonic() - began, answer))
            await asyncio.sleep(0.02)

    loads = [asyncio.create_task(load()) for _ in range(4)]
    for _ in range(2):
        old = mesh_pair.kill(BROKER)
        await asyncio.to_thread(mesh_pair.await_restart, BROKER, old)
        await answered_within(RECOVERED_S, lambda: call(base, "echo"))
    end.set()
    await asyncio.gather(*loads)
    slowest = max(took for took, _ in answers)
    assert slowest < ANSWERED_S
    for _, answer in answers:
        body = json.loads(answer.body)
        if "error" in body:
            assert body["error"]["code"] in AWAY
            assert body["error"]["data"]["outcome"] in {"not_executed", "unknown"}
    assert any("result" in json.loads(answer.body) for _, answer in answers)
