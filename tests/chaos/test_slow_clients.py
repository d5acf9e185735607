"""Clients that read slowly or not at all, or send half of what they began: others do not notice."""

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest
from tests.chaos.acting import call
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import lines, request_bytes

pytestmark = pytest.mark.slow

LARGE = 8_000_000
SLOWEST_S = 1.0
GROWTH_MAX_MB = 400.0


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def stalled(address: tuple[str, int], data: bytes) -> socket.socket:
    """A peer that sends and then reads nothing, with a small window."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect(address)
    peer.sendall(data)
    return peer


def large_call(number: int) -> dict[str, object]:
    params = {"name": "lab__large", "arguments": {"bytes": LARGE}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


@pytest.mark.slow
async def test_clients_that_do_not_read_cost_bounded_memory_and_nobody_else(
    mesh_pair: RunningMesh,
) -> None:
    pid = mesh_pair.pids["gateway-1"]
    base = mesh_pair.http
    await call(base, "lab__large", bytes=LARGE)
    before = resident_mb(pid)
    host, _, port = base.removeprefix("http://").rpartition(":")
    plain = json.dumps({"bytes": LARGE}).encode()
    peers = [
        *(
            stalled(
                mesh_pair.tcp, b"".join(json.dumps(large_call(n)).encode() + b"\n" for n in (1, 2))
            )
            for _ in range(4)
        ),
        *(
            stalled((host, int(port)), request_bytes(base, "/tools/lab__large", plain))
            for _ in range(4)
        ),
    ]
    try:
        slowest = 0.0
        until = time.monotonic() + 4.0
        async with lines(mesh_pair.tcp) as canary:
            while time.monotonic() < until:
                began = time.monotonic()
                assert (await canary.call("echo", message=1))["structuredContent"]
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.02)
        assert slowest < SLOWEST_S
        assert resident_mb(pid) - before < GROWTH_MAX_MB
    finally:
        for peer in peers:
            peer.close()


async def test_half_sent_requests_hold_up_nobody(mesh_pair: RunningMesh) -> None:
    base = mesh_pair.http
    host, _, port = base.removeprefix("http://").rpartition(":")
    whole = request_bytes(base, "/tools/echo", b'{"message":1}')
    halves = [
        stalled((host, int(port)), whole[:20]),
        stalled((host, int(port)), whole[:-5]),
        stalled(mesh_pair.tcp, b'{"jsonrpc":"2.0","id":1,'),
        stalled(mesh_pair.tcp, b""),
    ]
    try:
        began = time.monotonic()
        for _ in range(20):
            assert (await call(base, "echo", message=1)).json["result"]
        assert time.monotonic() - began < 2.0
    finally:
        for peer in halves:
            peer.close()


async def test_slow_call_of_one_client_delays_no_other_call_to_the_same_server(
    mesh_pair: RunningMesh,
) -> None:
    slow = asyncio.create_task(call(mesh_pair.http, "lab__sleep", seconds=1.5))
    began = time.monotonic()
    for _ in range(10):
        assert (await call(mesh_pair.http, "lab__echo", text="x")).json["result"]
    assert time.monotonic() - began < 1.0
    assert (await slow).json["result"]["content"][0]["text"] == "slept"
