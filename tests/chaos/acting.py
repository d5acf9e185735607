"""What the fault tests share: who holds the server, is it served again, a way between gateways."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
from nats.aio.client import Client
from tests.e2e import wire
from tests.e2e.processes import Process
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import HttpAnswer, http, request_bytes

from mesh_chassis.testing.conditions import eventually

__all__ = [
    "Counted",
    "Switch",
    "answered_within",
    "call",
    "holder",
    "lab_child",
    "serving",
    "switch",
]

_POLL_S = 0.02


def lab_child(mesh: RunningMesh, runner: str) -> Process | None:
    """The process of server ``lab`` under a runner; None when another one holds it."""
    found = [p for p in mesh.children_of(runner) if "servers/lab.py" in p.command]
    return found[0] if found else None


def holder(mesh: RunningMesh) -> tuple[str, Process]:
    """The runner that holds server ``lab``, and the server's process."""
    for runner in ("runner-1", "runner-2"):
        child = lab_child(mesh, runner)
        if child is not None:
            return runner, child
    raise AssertionError("nobody holds the server")


async def call(base: str, tool: str, /, **arguments: object) -> HttpAnswer:
    """A modern call over HTTP."""
    return await wire.post_modern(base, "tools/call", {"name": tool, "arguments": arguments})


async def answered_within(
    limit_s: float, attempt: Callable[[], Awaitable[HttpAnswer]]
) -> tuple[float, HttpAnswer]:
    """Repeat until there is a result.

    Returns:
        Seconds it took, and the answer.
    """
    began = time.monotonic()
    last: Any = None
    while time.monotonic() - began < limit_s:
        try:
            last = await attempt()
            if last.status == 200 and "error" not in last.json:
                return time.monotonic() - began, last
        except (OSError, EOFError, TimeoutError) as error:
            last = error
        await asyncio.sleep(_POLL_S)
    raise AssertionError(f"no result within {limit_s} s, last: {last!r}")


async def serving(mesh: RunningMesh, operator: Client, instance: str, limit_s: float) -> None:
    """Wait until a service works again: a gateway is ready, another answers discovery."""
    until = time.monotonic() + limit_s
    point = next(p for p in mesh.record()["endpoints"] if p["instance"] == instance)
    while time.monotonic() < until:
        with contextlib.suppress(OSError, nats.errors.Error, TimeoutError, EOFError):
            if point["http"]:
                raw = request_bytes(point["http"], "/ready", b"", method="GET")
                if (await http(point["http"], raw, 1.0)).status == 200:
                    return
            else:
                subject = f"$SRV.PING.{point['service']}.{instance}"
                await operator.request(subject, b"", timeout=0.5)
                return
        await asyncio.sleep(_POLL_S)
    raise AssertionError(f"{instance} does not serve again:\n{mesh.said}\n{mesh.logs()}")


class Counted:
    """Calls that are surely running: the server notes each in a file before it waits."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._file = mesh.room / "counted"
        self._before = self.total

    @property
    def total(self) -> int:
        """Calls that ever began."""
        return len(self._file.read_text().splitlines()) if self._file.exists() else 0

    @property
    def begun(self) -> int:
        """Calls that began since this object was made."""
        return self.total - self._before

    async def reach(self, number: int, limit_s: float = 5.0) -> None:
        """Wait until so many have begun."""
        what = f"{number} calls running"
        await eventually(lambda: self.begun >= number, timeout_s=limit_s, what=what)

    async def start(self, number: int, base: str, seconds: float) -> list[asyncio.Task[HttpAnswer]]:
        """Begin calls over HTTP; returns once all of them run."""
        tasks = [
            asyncio.create_task(call(base, "lab__count", label=f"c{n}", seconds=seconds))
            for n in range(number)
        ]
        await self.reach(number)
        return tasks


class Switch:
    """A way to the mesh that can be laid to another gateway: what a load balancer does."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        self.passed: dict[str, int] = {}
        """Connections by gateway."""

    def turn(self, target: str) -> None:
        """Lead everything to another gateway from now on."""
        self._target = target
        for writer in self._writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        target = self._target
        self.passed[target] = self.passed.get(target, 0) + 1
        host, _, port = target.removeprefix("http://").rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, back}
        await asyncio.gather(_copy(reader, back), _copy(there, writer))
        self._writers -= {writer, back}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def switch(target: str) -> AsyncIterator[Switch]:
    """A switch that leads to ``target`` first."""
    made = Switch(target)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        made.turn("")
        server.close()
        await server.wait_closed()
