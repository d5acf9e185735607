"""Runs every measurement once, interleaved with its floor, and prints one table.

usage: python -m tests.benchmarks [--seconds S] [--rounds N] [--only TEXT] [--write FILE] [--check]
       python -m tests.benchmarks --against CHECKOUT [--seconds S] [--rounds N] [--only TEXT]
       python -m tests.benchmarks --against CHECKOUT --instructions [--seconds S] [--only TEXT]

``--check`` fails when a figure misses its bound. Bare times on a shared machine say little; the
ratios inside one run are what is promised. ``--against`` compares with another checkout (that has
its own ``.venv``): both meshes run beside each other and take turns. ``--instructions`` counts what
the gateway executes (valgrind), which a busy machine does not change.
"""

import argparse
import asyncio
import socket
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from tests.benchmarks import against, instructions, large, many_tools, swarm
from tests.benchmarks.cases import Row, measure
from tests.benchmarks.cluster import mesh_up, process
from tests.benchmarks.report import bounds, bounds_table, table, write


def free_port() -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(seconds: float, rounds: int, only: str) -> list[Row]:
    """Start mesh and floor, measure, stop both."""
    with tempfile.TemporaryDirectory() as room, mesh_up(Path(room)) as mesh:
        port = free_port()
        floor = "tests.benchmarks.floor"
        address = (mesh.nats_url, mesh.operator_seed)
        state = str(Path(mesh.operator_seed).parents[1])
        with (
            process("-m", floor, "echo", *address, ready=True) as echo,
            process("-m", floor, "http", *address, str(port), ready=False) as http,
            process("-m", "tests.benchmarks.echo_agent", state, ready=True) as agent,
        ):
            mesh.agent = True
            _await_port(port)
            pids = {**mesh.pids, "floor-echo": echo.pid, "floor-http": http.pid, "agent": agent.pid}
            rows = uvloop.run(measure(mesh, pids, port, seconds=seconds, rounds=rounds, only=only))
            if any(only in case for case in large.CASES):
                rows += uvloop.run(large.measure(mesh, seconds, rounds))
            return rows


def _await_port(port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the HTTP floor did not start")


def main() -> None:
    """Entry point of `make bench`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="repeats; the median is reported")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--write", type=Path, help="also put the tables into this page")
    parser.add_argument("--against", type=Path, help="compare with this other checkout instead")
    parser.add_argument("--instructions", action="store_true", help="count, do not time")
    parser.add_argument("--check", action="store_true", help="fail when a bound is missed")
    args = parser.parse_args()
    if args.against and args.instructions:
        print(instructions.run(args.against, args.seconds, args.only))
        return
    if args.against:
        print(against.run(args.against, args.seconds, args.rounds, args.only))
        return
    rows = run(args.seconds, args.rounds, args.only)
    if any(args.only in case for case in many_tools.CASES):
        with tempfile.TemporaryDirectory() as room:
            rows += uvloop.run(many_tools.measure(Path(room), args.only))
    if any(args.only in case for case in swarm.CASES):
        with tempfile.TemporaryDirectory() as room:
            rows += uvloop.run(swarm.measure(Path(room), args.only))
    print(table(rows))
    if args.only:
        return
    found = bounds(rows)
    print(bounds_table(found))
    if args.write:
        write(args.write, f"{table(rows)}\n{bounds_table(found)}")
    if args.check and not all(one.kept for one in found):
        sys.exit(1)


if __name__ == "__main__":
    asyncio.set_event_loop_policy(None)
    main()
