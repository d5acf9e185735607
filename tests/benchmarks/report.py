"""The table of `make bench`, and the bounds it is held to."""

import datetime as dt
import platform
from pathlib import Path

import msgspec
from tests.benchmarks import large, many_tools, swarm
from tests.benchmarks.cases import Row

__all__ = ["Bound", "bounds", "bounds_table", "table", "write"]

MARKER = "<!-- measured: written by make bench ARGS='--write docs/benchmarks.md' -->"

HTTP_SHARE_MIN = 0.5
AGENT_SHARE_MIN = 0.9
TCP_RATE_MIN = 8_000
TCP_SHARE_MIN = 0.4
ADDED_P50_MS_MAX = 0.6
GATEWAY_MB_MAX = 120
KV_GET_SHARE_MIN = 0.6
ARTIFACT_MS_MAX = 150
BESIDE_P99_MS_MAX = 25
LIST_MS_MAX = 150
CHANGE_MS_MAX = 500
STEP_RATE_MIN = 1_500
STEP_P50_MS_MAX = 5
STEP_P99_MS_MAX = 25
OWNER_MB_MAX = 300
KILLED_S_MAX = 8
STOPPED_S_MAX = 1
LOST_S_MAX = 16


def _machine() -> str:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    return (
        f"{cores} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"
    )


def table(rows: list[Row]) -> str:
    """A Markdown table with date and machine, then memory per process."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    lines = [
        f"Measured {today} on {_machine()}; loopback, everything on this one machine.",
        "",
        "| case | calls/s | p50 ms | p99 ms | CPU µs per call |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows:
        used = ", ".join(f"{name} {value:.0f}" for name, value in sorted(row.cpu_us.items()))
        lines.append(
            f"| {row.name} | {row.rate:,.0f} | {row.p50_ms:.2f} | {row.p99_ms:.2f} | {used} |"
        )
    memory = ", ".join(
        f"{name} {value:.0f} MB" for name, value in sorted(rows[0].memory_mb.items())
    )
    if memory:
        lines += ["", f"Resident memory after the run: {memory}."]
    return "\n".join([*lines, ""])


class Bound(msgspec.Struct, frozen=True):
    """One promise about speed, and how a run kept it."""

    what: str
    wanted: str
    measured: str
    kept: bool


def bounds(rows: list[Row]) -> list[Bound]:
    """The bounds of the issues so far, against one run."""
    by = {row.name: row for row in rows}
    share = by["mesh HTTP modern, 64 connections"].rate / by["floor HTTP, 64 connections"].rate
    native = by["mesh HTTP modern, 64 connections"].rate
    agent = by["agent HTTP modern, 64 connections"].rate / native
    wanted = min(TCP_RATE_MIN, TCP_SHARE_MIN * by["bare NATS, 64 in flight"].rate)
    rate = by["mesh TCP, 64 in flight"].rate
    added = by["mesh HTTP modern, 1 connection"].p50_ms - by["floor HTTP, 1 connection"].p50_ms
    memory = max(mb for name, mb in rows[0].memory_mb.items() if name.startswith("gateway"))
    kv_get = by["mesh TCP kv_get, 64 in flight"].rate / rate
    kv_set = by["mesh TCP kv_set, 64 in flight"].rate / by["bare JetStream put, 64 in flight"].rate
    artifact = by[large.IN].p50_ms + by[large.OUT].p50_ms
    beside = by[large.BESIDE].p99_ms
    lists = max(by[case].p50_ms for case in many_tools.LIST_CASES)
    changes = max(by[case].p50_ms for case in many_tools.CHANGE_CASES)
    return [
        Bound(
            "HTTP at 64 connections, share of its floor",
            f"at least {HTTP_SHARE_MIN}",
            f"{share:.2f}",
            share >= HTTP_SHARE_MIN,
        ),
        Bound(
            f"TCP at 64 in flight: {TCP_RATE_MIN:,}/s or {TCP_SHARE_MIN} of bare NATS, the lower",
            f"at least {wanted:,.0f}/s",
            f"{rate:,.0f}/s",
            rate >= wanted,
        ),
        Bound(
            "an SDK echo agent over HTTP at 64 connections, share of the native echo",
            f"at least {AGENT_SHARE_MIN}",
            f"{agent:.2f}",
            agent >= AGENT_SHARE_MIN,
        ),
        Bound(
            "sequential HTTP, p50 above its floor",
            f"at most {ADDED_P50_MS_MAX} ms",
            f"{added:.2f} ms",
            added <= ADDED_P50_MS_MAX,
        ),
        Bound(
            "kv_get, share of the echo on the same transport",
            f"at least {KV_GET_SHARE_MIN}",
            f"{kv_get:.2f}",
            kv_get >= KV_GET_SHARE_MIN,
        ),
        Bound(
            "kv_set, share of a bare JetStream put (both wait for the synced write)",
            "shown",
            f"{kv_set:.2f}",
            True,
        ),
        Bound(
            "an artifact of 10 MB in and out, p50 of both together",
            f"under {ARTIFACT_MS_MAX} ms",
            f"{artifact:.0f} ms",
            artifact < ARTIFACT_MS_MAX,
        ),
        Bound(
            "small calls beside it, p99",
            f"under {BESIDE_P99_MS_MAX} ms",
            f"{beside:.1f} ms",
            beside < BESIDE_P99_MS_MAX,
        ),
        Bound(
            "memory of a gateway",
            f"under {GATEWAY_MB_MAX} MB",
            f"{memory:.0f} MB",
            memory < GATEWAY_MB_MAX,
        ),
        Bound(
            f"tools/list of {many_tools.LISTED} tools, every page, p50",
            f"under {LIST_MS_MAX} ms",
            f"{lists:.1f} ms",
            lists < LIST_MS_MAX,
        ),
        Bound(
            "a change of one server until a listener has the new list, p50",
            f"under {CHANGE_MS_MAX} ms",
            f"{changes:.0f} ms",
            changes < CHANGE_MS_MAX,
        ),
        *_of_swarms(by),
    ]


def _of_swarms(by: dict[str, Row]) -> list[Bound]:
    steps, step = by[swarm.STEPS].rate, by[swarm.STEP]
    memory = by[swarm.HELD].memory_mb["owner"]
    times = (
        (swarm.KILLED, KILLED_S_MAX),
        (swarm.STOPPED, STOPPED_S_MAX),
        (swarm.LOST, LOST_S_MAX),
    )
    return [
        Bound(
            "swarm: durable no-op steps with 20 agents",
            f"at least {STEP_RATE_MIN:,}/s",
            f"{steps:,.0f}/s",
            steps >= STEP_RATE_MIN,
        ),
        Bound(
            "swarm: one durable step, p50 and p99",
            f"under {STEP_P50_MS_MAX} and {STEP_P99_MS_MAX} ms",
            f"{step.p50_ms:.1f} and {step.p99_ms:.1f} ms",
            step.p50_ms < STEP_P50_MS_MAX and step.p99_ms < STEP_P99_MS_MAX,
        ),
        Bound(
            "swarm: memory of the owner with 1,000 steps in flight",
            f"under {OWNER_MB_MAX} MB",
            f"{memory:.0f} MB",
            memory < OWNER_MB_MAX,
        ),
        *(
            Bound(
                name,
                f"under {most_s} s",
                f"{by[name].p50_ms / 1e3:.2f} s",
                by[name].p50_ms / 1e3 < most_s,
            )
            for name, most_s in times
        ),
    ]


def bounds_table(found: list[Bound]) -> str:
    """The bounds as a Markdown table."""
    lines = ["| bound | wanted | this run | |", "|---|---|---|---|"]
    lines += [
        f"| {one.what} | {one.wanted} | {one.measured} | {'kept' if one.kept else '**missed**'} |"
        for one in found
    ]
    return "\n".join([*lines, ""])


def write(page: Path, text: str) -> None:
    """Replace what stands behind ``MARKER`` in ``page``.

    Raises:
        ValueError: the page has no marker.
    """
    head, marker, _ = page.read_text().partition(MARKER)
    if not marker:
        raise ValueError(f"{page} has no line {MARKER}")
    page.write_text(f"{head}{MARKER}\n\n{text}")
