"""The table of `make bench`, and the bounds it is held to."""

import datetime as dt
import platform
from pathlib import Path

from tests.benchmarks.cases import Row

__all__ = ["check", "table"]

HTTP_SHARE_MIN = 0.5
TCP_RATE_MIN = 8_000
TCP_SHARE_MIN = 0.4
ADDED_P50_MS_MAX = 0.6
GATEWAY_MB_MAX = 120


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
        f"{name} {value:.0f} MB" for name, value in sorted(rows[-1].memory_mb.items())
    )
    return "\n".join([*lines, "", f"Resident memory after the run: {memory}.", ""])


def check(rows: list[Row]) -> list[str]:
    """The bounds of the issue that this run missed, in words."""
    by = {row.name: row for row in rows}
    missed: list[str] = []
    share = by["mesh HTTP modern, 64 connections"].rate / by["floor HTTP, 64 connections"].rate
    if share < HTTP_SHARE_MIN:
        missed.append(
            f"HTTP at 64 connections is {share:.2f} of its floor, {HTTP_SHARE_MIN} wanted"
        )
    wanted = min(TCP_RATE_MIN, TCP_SHARE_MIN * by["bare NATS, 64 in flight"].rate)
    rate = by["mesh TCP, 64 in flight"].rate
    if rate < wanted:
        missed.append(f"TCP at 64 in flight gives {rate:,.0f} calls/s, {wanted:,.0f} wanted")
    added = by["mesh HTTP modern, 1 connection"].p50_ms - by["floor HTTP, 1 connection"].p50_ms
    if added > ADDED_P50_MS_MAX:
        missed.append(f"sequential HTTP adds {added:.2f} ms at p50, {ADDED_P50_MS_MAX} allowed")
    for name, memory in rows[-1].memory_mb.items():
        if name.startswith("gateway") and memory > GATEWAY_MB_MAX:
            missed.append(f"{name} holds {memory:.0f} MB, {GATEWAY_MB_MAX} allowed")
    return missed
