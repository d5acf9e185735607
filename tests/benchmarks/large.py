"""A 10 MB artifact in and out over HTTP, and small calls beside it.

The client of the artifact is a process of its own with blocking sockets (``python -m
tests.benchmarks.large PORT SECONDS``): ten megabytes in the loop that times the small calls would
show up in their figures. Puts and reads follow each other with a pause, so that small calls meet
both, and what was replaced is gone before the tenant's quota is full.
"""

import asyncio
import hashlib
import json
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from tests.benchmarks.cases import Row, modern_request
from tests.benchmarks.cluster import Mesh
from tests.benchmarks.load import Result, paced_load, quantile

__all__ = ["BESIDE", "CASES", "IN", "OUT", "measure"]

IN = "artifact of 10 MB in (put)"
OUT = "artifact of 10 MB out (read)"
BESIDE = "small calls beside them"
ALONE = "small calls alone, same rate"
CASES = (IN, OUT, BESIDE, ALONE)
SIZE = 10_000_000
KEY = "bench/large.txt"
URI = f"mesh://artifacts/{KEY}"
PAUSE_S = 0.2
CONNECTIONS = 16
EVERY_S = 0.04
"""Each connection asks this often, if it has its answer: 400 small calls a second together."""


class _Client:
    """One keep-alive connection, blocking; answers land in memory that is there already."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._memory = bytearray(SIZE + 1_000_000)

    def ask(self, request: bytes) -> tuple[memoryview, float]:
        """Body of the answer, and seconds from the first byte out to the last one in."""
        view = memoryview(self._memory)
        began = time.perf_counter()
        self._socket.sendall(request)
        have, whole, body = 0, 0, 0
        while not whole or have < whole:
            got = self._socket.recv_into(view[have:])
            if not got:
                raise RuntimeError("the gateway closed the connection")
            have += got
            end = -1 if whole else self._memory.find(b"\r\n\r\n", 0, have)
            if end >= 0:
                head = bytes(view[:end]).lower()
                if not head.startswith(b"http/1.1 200"):
                    raise RuntimeError(f"refused: {bytes(view[:have])!r}")
                body = end + 4
                whole = body + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        return view[body:whole], time.perf_counter() - began


def _text() -> str:
    line = "A line of a log as an agent may keep one: level=info, took 12 ms, ok. %07d\n"
    lines = (line % number for number in range(SIZE // len(line % 0)))
    return "".join(lines).ljust(SIZE, "#")


def drive(port: int, seconds: float) -> dict[str, list[float]]:
    """Puts and reads in turn; seconds of each. Bodies are compared, outside of the time."""
    client, text = _Client(port), _text()
    wanted = hashlib.sha256(text.encode()).hexdigest()
    arguments = {"key": KEY, "content": text}
    put = modern_request("tools/call", "artifacts_put", {"arguments": arguments})
    read = modern_request("resources/read", URI, {})
    times: dict[str, list[float]] = {IN: [], OUT: []}
    end = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < end:
        answer, spent = client.ask(put)
        if json.loads(bytes(answer))["result"]["structuredContent"]["sha256"] != wanted:
            raise RuntimeError("another body was stored")
        times[IN].append(spent)
        time.sleep(PAUSE_S)
        answer, spent = client.ask(read)
        if turn == 0:
            found = json.loads(bytes(answer))["result"]["contents"][0]["text"]
            if found != text:
                raise RuntimeError("another body came back")
        elif len(answer) < SIZE:
            raise RuntimeError("a part of the body came back")
        times[OUT].append(spent)
        turn += 1
        time.sleep(PAUSE_S)
    # The first of each opens the second connections and makes the bucket.
    return {name: spent[1:] for name, spent in times.items()}


async def measure(mesh: Mesh, seconds: float, rounds: int) -> list[Row]:
    """Small calls alone, then small calls beside puts and reads; medians of the rounds."""
    echo = modern_request("tools/call", "echo", {"arguments": {"message": "x"}})

    async def small(for_s: float) -> Result:
        return await paced_load(
            "127.0.0.1",
            mesh.http_port,
            lambda _: echo,
            proof=b"x",
            connections=CONNECTIONS,
            every_s=EVERY_S,
            seconds=for_s,
        )

    large: dict[str, list[float]] = {IN: [], OUT: []}
    alone: list[Result] = []
    beside: list[Result] = []
    for _ in range(rounds):
        alone.append(await small(seconds))
        times, result = await _beside(mesh.http_port, seconds, small)
        beside.append(result)
        for name, spent in times.items():
            large[name] += spent
    return [
        *(_row(name, [Result(spent, sum(spent))]) for name, spent in large.items()),
        _row(BESIDE, beside),
        _row(ALONE, alone),
    ]


async def _beside(
    port: int, seconds: float, small: Callable[[float], Awaitable[Result]]
) -> tuple[dict[str, list[float]], Result]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.large",
        str(port),
        str(seconds + 1.0),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    await child.stdout.readline()  # its text is made: what is timed from here on is the mesh
    child.stdin.write(b"go\n")
    result = await small(seconds)
    out, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError("the client of the artifact failed")
    return json.loads(out), result


def _row(name: str, results: list[Result]) -> Row:
    return Row(
        name=name,
        rate=statistics.median(one.rate for one in results),
        p50_ms=statistics.median(quantile(one.latencies_s, 0.5) for one in results) * 1e3,
        p99_ms=statistics.median(quantile(one.latencies_s, 0.99) for one in results) * 1e3,
        cpu_us={},
        memory_mb={},
    )


def main() -> None:
    """The process of the client: says ready, waits for a line, prints its times as JSON."""
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(drive(port, seconds)))


if __name__ == "__main__":
    main()
