"""The measurements: each a row with rate, latency, CPU per call and memory."""

import asyncio
import json
import statistics
import time
import urllib.request
from collections.abc import Awaitable, Callable

import msgspec
from tests.benchmarks.cluster import Cpu, Mesh, resident_mb
from tests.benchmarks.floor import SUBJECT, connect
from tests.benchmarks.load import Result, http_load, lines_load, quantile

__all__ = ["WARM_UP_S", "Case", "Row", "cases", "measure", "modern_request"]

WARM_UP_S = 0.5
PUT_BUCKET = "bench"
PUT_BODY = b'{"n":1,"text":"a short value"}'
META = (
    '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    '"io.modelcontextprotocol/clientCapabilities":{},'
    '"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}'
)


class Row(msgspec.Struct):
    """One line of the table.

    Attributes:
        rate: calls per second, median of the rounds.
        p50_ms: median latency; p99_ms: 99th percentile; both medians of the rounds.
        cpu_us: CPU microseconds per call by process, of the processes that took part.
        memory_mb: resident memory after the run, by process.
    """

    name: str
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    memory_mb: dict[str, float]


Case = Callable[[float], Awaitable[Result]]


def _body(number: int, tool: str, arguments: str, meta: str = "") -> bytes:
    tail = f",{meta}" if meta else ""
    return (
        f'{{"jsonrpc":"2.0","id":{number},"method":"tools/call",'
        f'"params":{{"name":"{tool}","arguments":{arguments}{tail}}}}}'
    ).encode()


def _post(
    path: str, headers: dict[str, str], make: Callable[[int], bytes]
) -> Callable[[int], bytes]:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}Content-Length: ".encode()

    def request(number: int) -> bytes:
        body = make(number)
        return head + str(len(body)).encode() + b"\r\n\r\n" + body

    return request


_JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


def _modern(tool: str) -> dict[str, str]:
    return {
        **_JSON,
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }


def modern_request(method: str, target: str, params: dict[str, object]) -> bytes:
    """A whole ``POST /mcp`` of the modern era about the tool or resource ``target``."""
    member = "uri" if method.startswith("resources/") else "name"
    tail = json.dumps({member: target, **params})[1:]
    body = f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{META},{tail}}}'.encode()
    headers = {**_modern(target), "Mcp-Method": method}
    return _post("/mcp", headers, lambda _: body)(1)


def _open_session(port: int) -> dict[str, str]:
    body = {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"},
        },
    }
    url = f"http://127.0.0.1:{port}/mcp"
    request = urllib.request.Request(url, json.dumps(body).encode(), _JSON)
    with urllib.request.urlopen(request, timeout=10) as answer:
        session = answer.headers["mcp-session-id"]
    return {**_JSON, "Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}


async def _bare_nats(mesh: Mesh, window: int, seconds: float) -> Result:
    connection = await connect(mesh.nats_url, mesh.operator_seed)
    latencies: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds
    body = _body(1, "echo", '{"message":"x"}', META)

    async def worker() -> None:
        while (sent := time.perf_counter()) < end:
            await connection.request(SUBJECT, body, timeout=5)
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(worker() for _ in range(window)))
    wall = time.perf_counter() - begin
    await connection.close()
    return Result(latencies_s=latencies, wall_s=wall)


async def _bare_put(mesh: Mesh, window: int, seconds: float) -> Result:
    """Acknowledged writes of the same size into a bucket like the tenant's, without the mesh."""
    connection = await connect(mesh.nats_url, mesh.operator_seed)
    await connection.jetstream().create_key_value(bucket=PUT_BUCKET, history=1)
    latencies: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds

    async def worker() -> None:
        while (sent := time.perf_counter()) < end:
            await connection.request(f"$KV.{PUT_BUCKET}.key", PUT_BODY, timeout=5)
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(worker() for _ in range(window)))
    wall = time.perf_counter() - begin
    await connection.close()
    return Result(latencies_s=latencies, wall_s=wall)


def cases(mesh: Mesh, floor_port: int = 0) -> dict[str, Case]:
    """Every case by name; those of the floor need its port."""
    session = _open_session(mesh.http_port)
    echo = '{"message":"x"}'

    def http(
        port: int,
        path: str,
        headers: dict[str, str],
        meta: str,
        connections: int,
        tool: str = "echo",
    ) -> Case:
        request = _post(path, headers, lambda n: _body(n, tool, echo, meta))
        return lambda seconds: http_load(
            "127.0.0.1", port, request, proof=b"x", connections=connections, seconds=seconds
        )

    def tcp(tool: str, arguments: str, window: int) -> Case:
        return lambda seconds: lines_load(
            "127.0.0.1",
            mesh.tcp_port,
            lambda n: _body(n, tool, arguments, META) + b"\n",
            proof=b'"result"',
            window=window,
            seconds=seconds,
        )

    modern = _modern("echo")
    key = '{"key":"bench/value"}'
    value = '{"key":"bench/value","value":{"n":1,"text":"a short value"}}'

    def agent(connections: int) -> Case:
        headers = _modern("bench__echo")
        return http(mesh.http_port, "/mcp", headers, META, connections, "bench__echo")

    # Only where one runs beside the mesh: not in a comparison with another checkout.
    agents = (
        {
            "agent HTTP modern, 1 connection": agent(1),
            "agent HTTP modern, 64 connections": agent(64),
        }
        if mesh.agent
        else {}
    )
    return {
        **agents,
        "bare JetStream put, 64 in flight": lambda s: _bare_put(mesh, 64, s),
        "mesh TCP kv_set, 64 in flight": tcp("kv_set", value, 64),
        "mesh TCP kv_get, 64 in flight": tcp("kv_get", key, 64),
        "bare NATS, 1 in flight": lambda s: _bare_nats(mesh, 1, s),
        "bare NATS, 64 in flight": lambda s: _bare_nats(mesh, 64, s),
        "floor HTTP, 1 connection": http(floor_port, "/", _JSON, META, 1),
        "mesh HTTP modern, 1 connection": http(mesh.http_port, "/mcp", modern, META, 1),
        "mesh HTTP legacy, 1 connection": http(mesh.http_port, "/mcp", session, "", 1),
        "floor HTTP, 64 connections": http(floor_port, "/", _JSON, META, 64),
        "mesh HTTP modern, 64 connections": http(mesh.http_port, "/mcp", modern, META, 64),
        "mesh HTTP legacy, 64 connections": http(mesh.http_port, "/mcp", session, "", 64),
        "mesh TCP, 1 in flight": tcp("echo", echo, 1),
        "mesh TCP, 64 in flight": tcp("echo", echo, 64),
        "mesh TCP to a stdio child, 1 in flight": tcp("child__echo", '{"text":"x"}', 1),
        "mesh TCP to a stdio child, 32 in flight": tcp("child__echo", '{"text":"x"}', 32),
    }


async def measure(
    mesh: Mesh,
    pids: dict[str, int],
    floor_port: int,
    *,
    seconds: float,
    rounds: int,
    only: str = "",
) -> list[Row]:
    """Run every case whose name contains ``only``, interleaved, ``rounds`` times; medians."""
    chosen = {name: case for name, case in cases(mesh, floor_port).items() if only in name}
    runs: dict[str, list[tuple[Result, dict[str, float]]]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, case in chosen.items():
            await case(WARM_UP_S)
            before = Cpu.of(pids)
            result = await case(seconds)
            runs[name].append((result, Cpu.of(pids).since(before)))
    memory = {name: resident_mb(pid) for name, pid in pids.items()}
    return [_row(name, results, memory) for name, results in runs.items()]


def _row(
    name: str, results: list[tuple[Result, dict[str, float]]], memory: dict[str, float]
) -> Row:
    per_call = {
        process: statistics.median(
            used[process] / len(result.latencies_s) * 1e6 for result, used in results
        )
        for process in results[0][1]
    }
    return Row(
        name=name,
        rate=statistics.median(result.rate for result, _ in results),
        p50_ms=statistics.median(quantile(result.latencies_s, 0.5) for result, _ in results) * 1e3,
        p99_ms=statistics.median(quantile(result.latencies_s, 0.99) for result, _ in results) * 1e3,
        cpu_us={process: used for process, used in per_call.items() if used >= 1},
        memory_mb=memory,
    )
