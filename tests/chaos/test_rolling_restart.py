"""Every service is restarted in turn while 200 calls a second go on: none of them fails."""

import asyncio
import json
import signal
import time
from collections import Counter

import pytest
from nats.aio.client import Client
from tests.chaos.acting import holder, serving
from tests.e2e import wire
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import MODERN, envelope, request_bytes

RATE = 200.0
CLIENTS = 16
SERVICES = ("registry-1", "tenant-auth-1", "runner-1", "runner-2", "gateway-1", "gateway-2")
BETWEEN_S = 0.5
"""Load between two restarts, so that each is seen from a steady state."""


class LoadClient:
    """An HTTP client with keep-alive that knows both gateways.

    It may find its idle connection closed, or a gateway that takes none, and goes to the other
    one: that is what gateways that come and go look like. A request that was sent and got no
    answer, or an error, is a failed call.
    """

    def __init__(self, number: int, bases: list[str]) -> None:
        self._number = number
        self._bases = bases
        self._turn = number
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._session: dict[str, str] = {}
        self.calls = 0
        self.moves = 0
        self.failed: list[str] = []

    async def run(self, end: asyncio.Event, interval_s: float) -> None:
        """Call at a steady rate until the end."""
        due = time.monotonic() + interval_s * self._number / CLIENTS
        while not end.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += interval_s
            try:
                async with asyncio.timeout(10):
                    await self._one()
            except (OSError, EOFError, TimeoutError) as error:
                self.failed.append(f"{self._bases[self._turn % 2]} {error!r}")
                self._drop()
            self.calls += 1
        self._drop()

    async def _one(self) -> None:
        kind = self.calls % 4
        value = f"{self._number}-{self.calls}"
        match kind:
            case 0:
                answer = await self._modern("echo", {"message": value})
            case 1:
                answer = await self._modern("lab__echo", {"text": value})
            case 2:
                answer = await self._legacy(value)
            case _:
                answer = await self._send("/tools/echo", {"message": value}, {})
        if answer.status != 200 or value not in answer.body.decode() or b'"error"' in answer.body:
            self.failed.append(f"{self._bases[self._turn % 2]} kind {kind} {answer!r}")

    async def _modern(self, tool: str, arguments: dict[str, str]) -> wire.HttpAnswer:
        headers = {
            "mcp-protocol-version": MODERN,
            "mcp-method": "tools/call",
            "mcp-name": tool,
        }
        params = {"name": tool, "arguments": arguments, "_meta": envelope()}
        return await self._send("/mcp", _request("tools/call", params), headers)

    async def _legacy(self, value: str) -> wire.HttpAnswer:
        if not self._session:
            params = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "load", "version": "1"},
            }
            opened = await self._send("/mcp", _request("initialize", params), {})
            self._session = {
                "mcp-session-id": opened.headers["mcp-session-id"],
                "mcp-protocol-version": "2025-11-25",
            }
        params = {"name": "lab__echo", "arguments": {"text": value}}
        return await self._send("/mcp", _request("tools/call", params), self._session)

    async def _send(
        self, path: str, body: dict[str, object], headers: dict[str, str]
    ) -> wire.HttpAnswer:
        reader, writer = await self._connected()
        raw = request_bytes(self._bases[self._turn % 2], path, json.dumps(body).encode(), headers)
        writer.write(raw)
        answer = await wire.read_answer(reader)
        if answer.headers.get("connection") == "close":
            self._move()
        return answer

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._stream is not None and self._stream[0].at_eof():
            self._move()
        while self._stream is None:
            host, _, port = self._bases[self._turn % 2].removeprefix("http://").rpartition(":")
            try:
                self._stream = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                self._turn += 1
                await asyncio.sleep(0.01)
        return self._stream

    def _move(self) -> None:
        self._drop()
        self._turn += 1
        self.moves += 1

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None


def _request(method: str, params: dict[str, object]) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_rolling_restart_of_every_service_fails_no_call(
    mesh_pair: RunningMesh, operator: Client
) -> None:
    end = asyncio.Event()
    clients = [LoadClient(number, mesh_pair.urls) for number in range(CLIENTS)]
    began = time.monotonic()
    loads = [asyncio.create_task(one.run(end, CLIENTS / RATE)) for one in clients]
    failed_by: Counter[str] = Counter()
    try:
        await asyncio.sleep(BETWEEN_S)
        for instance in SERVICES:
            before = sum(len(one.failed) for one in clients)
            old = mesh_pair.kill(instance, signal.SIGTERM)
            await asyncio.to_thread(mesh_pair.await_restart, instance, old, 40.0)
            await serving(mesh_pair, operator, instance, 20)
            await asyncio.sleep(BETWEEN_S)
            failed_by[instance] = sum(len(one.failed) for one in clients) - before
    finally:
        end.set()
        await asyncio.gather(*loads)
    took = time.monotonic() - began
    calls = sum(one.calls for one in clients)
    failures = [text for one in clients for text in one.failed]
    print(f"{calls} calls in {took:.1f} s, {sum(one.moves for one in clients)} moves")
    assert not failures, f"{len(failures)} of {calls} failed: {+failed_by}\n" + "\n".join(
        failures[:10]
    )
    assert calls / took > 0.9 * RATE
    assert sum(one.moves for one in clients) >= CLIENTS
    holder(mesh_pair)
