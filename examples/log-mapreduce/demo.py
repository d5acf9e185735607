"""Logs are cut into shards, counted by agents and merged up a tree; one process counts them too."""

import asyncio
import math
import random
import statistics
import time
from collections import Counter, defaultdict
from typing import Any

from mesh_sdk import Client

LOGS, LINES = 4, 15_000
PATHS = {"/cart": 20, "/search": 60, "/checkout": 250}
ANALYSTS = 7
SHARDS = 14
PATTERN = r"(?P<at>\S+) (?P<level>[A-Z]+) (?P<path>\S+) (?P<ms>[0-9.]+)ms"
QUANTILES = (0.5, 0.95, 0.99)
TASK_S = 90
OVER = ("completed", "failed", "faulted", "cancelled")


def log_of(number: int) -> str:
    """A log as a shop might write it; the same number gives the same log."""
    chance = random.Random(number)
    rows = [f"shop {number} started"]
    for line in range(1, LINES):
        path = chance.choice(list(PATHS))
        level = chance.choices(["INFO", "WARN", "ERROR"], [95, 4, 1])[0]
        took = PATHS[path] * chance.lognormvariate(0, 0.5)
        rows.append(f"2026-11-21T10:{line % 60:02}:00Z {level} {path} {took:.2f}ms")
    return "\n".join(rows)


async def main() -> None:
    """Upload, count in the swarm, count here, compare."""
    logs = {f"logs/shop-{number}.log": log_of(number) for number in range(1, LOGS + 1)}
    async with Client() as client:
        for key, text in logs.items():
            body = {"key": key, "content": text, "contentType": "text/plain"}
            await call(client, "artifacts_put", **body)
        size = sum(map(len, logs.values()))
        print(f"uploaded {LOGS} logs: {LOGS * LINES} lines, {size // 1024} KiB")

        agents = [{"type": "analyst", "name": f"analyst-{n}"} for n in range(1, ANALYSTS + 1)]
        swarm = await call(
            client, "swarm_init", topology="hierarchical", initialAgents=agents,
            config={"fanout": 2},
        )  # fmt: skip
        await active(client, swarm["swarmId"])
        began = time.monotonic()
        task = await call(
            client, "task_orchestrate",
            task={
                "description": "how fast is the shop", "template": "map_reduce",
                "strategy": "parallel", "parallelism": ANALYSTS, "timeout": TASK_S,
                "input": {
                    "sources": [{"artifact": key} for key in logs],
                    "shards": SHARDS,
                    "analysis": {
                        "format": "log", "pattern": PATTERN, "groupBy": ["path"],
                        "counts": ["level"], "numbers": ["ms"], "quantiles": QUANTILES,
                    },
                },
            },
        )  # fmt: skip
        status = await ended(client, task["taskId"])
        took = time.monotonic() - began
        summary = (await call(client, "task_result", taskId=task["taskId"]))["result"]
        steps = {phase["name"]: phase["done"] for phase in status["phases"]}
        print(f"swarm: {steps['map']} steps by {ANALYSTS} agents in a tree, {took:.1f} s")
        await call(client, "swarm_destroy", swarmId=swarm["swarmId"])

    began = time.monotonic()
    alone = one_process(list(logs.values()))
    print(f"one process: {time.monotonic() - began:.1f} s")
    compare(summary, alone)
    print("ok: counts, sums, means and extremes are equal, quantiles as exact as stated")


def one_process(logs: list[str]) -> dict[str, dict[str, Any]]:
    """The same figures, from all lines at once, by other code."""
    times: dict[str, list[float]] = defaultdict(list)
    levels: dict[str, Counter[str]] = defaultdict(Counter)
    unreadable = 0
    for line in (line for log in logs for line in log.splitlines()):
        words = line.split(" ")
        if len(words) != 4 or not words[3].endswith("ms"):
            unreadable += 1
            continue
        times[words[2]].append(float(words[3].removesuffix("ms")))
        levels[words[2]][words[1]] += 1
    assert unreadable == LOGS
    return {path: {"times": sorted(times[path]), "levels": levels[path]} for path in times}


def compare(summary: dict[str, Any], alone: dict[str, dict[str, Any]]) -> None:
    """Figure by figure."""
    assert summary["unreadable"] == LOGS
    assert summary["rows"] == LOGS * (LINES - 1)
    assert [group["key"]["path"] for group in summary["groups"]] == sorted(alone)
    for group in summary["groups"]:
        path, figures = group["key"]["path"], group["numbers"]["ms"]
        values = alone[path]["times"]
        assert group["counts"]["level"] == alone[path]["levels"]
        assert figures["count"] == len(values)
        assert figures["sum"] == math.fsum(values)
        assert figures["mean"] == statistics.fmean(values)
        assert (figures["min"], figures["max"]) == (values[0], values[-1])
        worst = 0.0
        for share in QUANTILES:
            true = values[math.ceil(share * len(values)) - 1]
            worst = max(worst, abs(figures["quantiles"][f"{share:g}"] / true - 1))
        assert worst == 0 if figures["exact"] else worst <= 0.005
        shown = {name: round(value, 1) for name, value in figures["quantiles"].items()}
        print(
            f"{path}: {group['rows']} rows, {group['counts']['level']['ERROR']} errors, "
            f"mean {figures['mean']:.1f} ms, quantiles {shown}, off by {worst:.2%} at most"
        )


async def active(client: Client, swarm: str) -> None:
    """Wait until all agents work."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        agents = (await call(client, "agent_list", swarmId=swarm))["agents"]
        if len(agents) == ANALYSTS and {agent["status"] for agent in agents} == {"active"}:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("not all agents started")


async def ended(client: Client, task: str) -> dict[str, Any]:
    """Wait for the end of a task."""
    while True:
        status = await call(client, "task_status", taskId=task, fresh=True)
        if status["status"] in OVER:
            assert status["status"] == "completed", status
            return status
        await asyncio.sleep(0.1)


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """A tool's structured result."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.structured
    return answer.structured


asyncio.run(main())
