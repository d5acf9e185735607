"""Load generators: as little Python per call as will go, the same for the floor and the mesh.

Every generator keeps a fixed number of requests in flight (closed loop; ``paced_load`` waits
between them), checks that each answer carries what it must, and returns the latencies in seconds.
An error answer ends the run: a figure over failed calls would be worth nothing.
"""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import msgspec

__all__ = ["Result", "http_load", "lines_load", "paced_load", "quantile"]


class Result(msgspec.Struct):
    """Outcome of one timed run."""

    latencies_s: list[float]
    wall_s: float

    @property
    def rate(self) -> float:
        """Calls per second."""
        return len(self.latencies_s) / self.wall_s


def quantile(values: list[float], q: float) -> float:
    """The q-quantile of ``values`` (0 ≤ q ≤ 1)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class _Clock:
    """Shared end and latency list of the connections of one run."""

    def __init__(self, seconds: float) -> None:
        self.latencies: list[float] = []
        self.begin = time.perf_counter()
        self.end = self.begin + seconds

    def result(self) -> Result:
        return Result(latencies_s=self.latencies, wall_s=time.perf_counter() - self.begin)


class _Http(asyncio.Protocol):
    """One keep-alive connection with one request in flight."""

    def __init__(
        self, request: Callable[[int], bytes], proof: bytes, clock: _Clock, every_s: float = 0.0
    ) -> None:
        self._request = request
        self._proof = proof
        self._clock = clock
        self._every_s = every_s
        self._buffer = b""
        self._sent = 0.0
        self._n = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._n += 1
        self._transport.write(self._request(self._n))

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        head = data[:head_end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            return self._fail(f"no content-length: {data[:300]!r}")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(data) < head_end + 4 + length:
            return None
        now = time.perf_counter()
        if not head.startswith(b"http/1.1 200") or self._proof not in data:
            return self._fail(f"bad answer: {data[:400]!r}")
        self._buffer = b""
        self._clock.latencies.append(now - self._sent)
        if now >= self._clock.end:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
        elif self._every_s:
            wait = max(0.0, self._sent + self._every_s - now)
            asyncio.get_running_loop().call_later(wait, self._send)
        else:
            self._send()
        return None

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"connection closed early: {exc}"))


async def http_load(
    host: str,
    port: int,
    request: Callable[[int], bytes],
    *,
    proof: bytes,
    connections: int,
    seconds: float,
) -> Result:
    """Drive HTTP/1.1 with ``connections`` keep-alive connections for ``seconds``."""
    loop = asyncio.get_running_loop()
    clock = _Clock(seconds)
    made = [
        await loop.create_connection(lambda: _Http(request, proof, clock), host, port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return clock.result()


async def paced_load(
    host: str,
    port: int,
    request: Callable[[int], bytes],
    *,
    proof: bytes,
    connections: int,
    every_s: float,
    seconds: float,
) -> Result:
    """The same, but each connection asks every ``every_s`` seconds at most: latency, not rate."""
    loop = asyncio.get_running_loop()
    clock = _Clock(seconds)
    made: list[_Http] = []
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: _Http(request, proof, clock, every_s), host, port
        )
        made.append(protocol)
        await asyncio.sleep(every_s / connections)  # spread over the period, not in step
    await asyncio.gather(*(protocol.done for protocol in made))
    return clock.result()


class _Lines(asyncio.Protocol):
    """One connection of newline-delimited JSON with ``window`` requests in flight."""

    def __init__(
        self, request: Callable[[int], bytes], proof: bytes, window: int, clock: _Clock
    ) -> None:
        self._request = request
        self._proof = proof
        self._window = window
        self._clock = clock
        self._buffer = b""
        self._sent: dict[int, float] = {}
        self._next = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send(self._window)

    def _send(self, count: int) -> None:
        now = time.perf_counter()
        out: list[bytes] = []
        for _ in range(count):
            self._next += 1
            self._sent[self._next] = now
            out.append(self._request(self._next))
        self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        now = time.perf_counter()
        answered = 0
        for line in lines:
            at = line.find(b'"id":')
            if at < 0 or self._proof not in line:
                if not self.done.done():
                    self.done.set_exception(RuntimeError(f"bad answer: {line[:400]!r}"))
                self._transport.close()
                return
            number = int(line[at + 5 :].split(b",", 1)[0].rstrip(b"}"))
            self._clock.latencies.append(now - self._sent.pop(number))
            answered += 1
        if now >= self._clock.end:
            if not self._sent and not self.done.done():
                self.done.set_result(None)
                self._transport.close()
        elif answered:
            self._send(answered)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"connection closed early: {exc}"))


async def lines_load(
    host: str,
    port: int,
    request: Callable[[int], bytes],
    *,
    proof: bytes,
    window: int,
    seconds: float,
) -> Result:
    """Drive one TCP-line connection with ``window`` requests in flight for ``seconds``."""
    clock = _Clock(seconds)
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: _Lines(request, proof, window, clock), host, port
    )
    await protocol.done
    return clock.result()
