"""What a sandbox costs a stdio server: its start and its calls, beside the same server without one.

usage: python -m tests.benchmarks.isolation [--starts N] [--calls N]

Plain and sandboxed take turns, start by start and block of calls by block of calls, in one process
that does nothing else. A start ends when the server has answered its list of tools.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorObject
from mcp_proto.sandboxes import SandboxTable
from mesh_chassis.children import Children
from mesh_chassis.sandbox.launch import Sandboxes
from tool_runner.upstreams.factory import Life, NetworkSettings, make
from tool_runner.upstreams.stdio import StdioSettings
from tool_runner.upstreams.upstream import Request
from tool_runner.upstreams.walls import SandboxSettings

SERVER = Path(__file__).parent / "echo_server.py"
WAYS = ("none", "sandbox")
START_MORE_MS = 60.0
"""The most that a sandbox may add to a start."""
BLOCK = 200
PARAMS = msgspec.Raw(msgspec.json.encode({"name": "echo", "arguments": {"text": "x"}}))


class Listener:
    """Hears of nothing."""

    def lists_changed(self) -> None:
        """See ``tool_runner.upstreams.upstream.Listener``."""

    def resource_updated(self, params: msgspec.Raw) -> None:
        """See ``tool_runner.upstreams.upstream.Listener``."""


async def begin(way: str, children: Children, sandboxes: Sandboxes) -> Life:
    """Start the server one way or the other."""
    life = make(
        ServerDefinition(
            name="echo",
            command=sys.executable,
            args=(str(SERVER),),
            era="legacy",
            isolation=way,
        ),
        children,
        Listener(),
        stdio=StdioSettings(sandbox=SandboxSettings(sandboxes=sandboxes, table=SandboxTable())),
        network=NetworkSettings(),
        trusted=True,
        legacy=True,
    )
    await life.start()
    return life


async def starts(number: int, children: Children, sandboxes: Sandboxes) -> dict[str, list[float]]:
    """Milliseconds of each start."""
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(number + 1):
        for way in WAYS if turn % 2 else reversed(WAYS):
            began = time.perf_counter()
            life = await begin(way, children, sandboxes)
            if turn:  # the first one reads files that all others find in memory
                took[way].append((time.perf_counter() - began) * 1000)
            await life.close()
    return took


async def calls(number: int, children: Children, sandboxes: Sandboxes) -> dict[str, list[float]]:
    """Microseconds per call, of each block."""
    lives = {way: await begin(way, children, sandboxes) for way in WAYS}
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(max(2, number // BLOCK)):
        for way in WAYS if turn % 2 else reversed(WAYS):
            began = time.perf_counter()
            for _ in range(BLOCK):
                request = Request(method="tools/call", params=PARAMS, timeout_s=5.0)
                answer = await lives[way].call(request)
                if isinstance(answer, ErrorObject):
                    raise TypeError(answer)
            took[way].append((time.perf_counter() - began) * 1e6 / BLOCK)
    for life in lives.values():
        await life.close()
    return took


async def measure(start_count: int, call_count: int) -> int:
    """Measure and print; 1 = a start costs more than it may."""
    children = Children()
    sandboxes = Sandboxes(children)
    report = await sandboxes.probe()
    if not report.available:
        print(f"nothing measured: {report.reason}")
        await children.close()
        return 1
    begun = await starts(start_count, children, sandboxes)
    called = await calls(call_count, children, sandboxes)
    await children.close()
    middle = {way: statistics.median(begun[way]) for way in WAYS}
    each = {way: statistics.median(called[way]) for way in WAYS}
    more = statistics.median(
        sandboxed - plain for plain, sandboxed in zip(begun["none"], begun["sandbox"], strict=True)
    )
    print(f"limits: {report.limits}; real uid of the server: {report.uid}")
    print("| isolation | start, median ms | slowest of ten, ms | call, median µs |")
    print("|---|---:|---:|---:|")
    for way in WAYS:
        late = sorted(begun[way])[int(len(begun[way]) * 0.9)]
        print(f"| {way} | {middle[way]:.1f} | {late:.1f} | {each[way]:.0f} |")
    print(f"a sandbox adds {more:.1f} ms to a start (at most {START_MORE_MS:g} wanted)")
    print(f"a call costs {each['sandbox'] / each['none']:.3f} of one without")
    return int(more > START_MORE_MS)


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--calls", type=int, default=4000)
    given = parser.parse_args()
    return asyncio.run(measure(given.starts, given.calls))


if __name__ == "__main__":
    sys.exit(main())
