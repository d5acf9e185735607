"""Four agents run a test suite; one of them is killed in the middle; the report is whole."""

import asyncio
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from mesh_sdk import Client

PROJECT = Path(__file__).parent / "project"
TESTERS = 4
TASK_S = 90
OVER = ("completed", "failed", "faulted", "cancelled")


async def main() -> None:
    """Run twice: to learn how long each test takes, then by that, with a loss."""
    shutil.copytree(PROJECT, "project")
    async with Client() as client:
        agents = [{"type": "tester", "name": f"tester-{n}"} for n in range(1, TESTERS + 1)]
        swarm = await call(client, "swarm_init", topology="mesh", initialAgents=agents)
        await active(client, swarm["swarmId"])

        first, took = await tests(client, {"shards": TESTERS}, kill="")
        show("without durations", first, took)
        assert outcomes(first) == (18, 1, 1, 1), first
        assert [one["id"] for one in first["tests"] if one["outcome"] == "flaky"] == [
            "tests/test_cache.py::test_cache_answers"
        ]

        # The cache is cold again; shards are small, so that little is lost with an agent.
        Path("project/tests/cache.warm").unlink()
        asked = {"shards": 3 * TESTERS, "durations": first["durations"]}
        second, took = await tests(client, asked, kill=swarm["swarmId"])
        show("with durations, one agent killed", second, took)
        assert outcomes(second) == outcomes(first)
        assert [one["id"] for one in second["tests"]] == [one["id"] for one in first["tests"]]

        Path("junit.xml").write_text(second["junit"], encoding="utf-8")
        suite = ET.parse("junit.xml").getroot().find("testsuite")  # noqa: S314 - ours
        assert suite is not None
        cases = suite.findall("testcase")
        assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
        print(f"junit.xml: {suite.get('tests')} tests, {suite.get('failures')} failure")
        await call(client, "swarm_destroy", swarmId=swarm["swarmId"])
    print("ok: every test is in the report once, although an agent died with its work")


async def tests(client: Client, given: dict[str, Any], kill: str) -> tuple[dict[str, Any], float]:
    """One run of the suite: its report, and how long it took."""
    root = str(Path("project").resolve())
    began = time.monotonic()
    task = await call(
        client, "task_orchestrate",
        task={
            "description": "run the tests", "template": "test_run", "timeout": TASK_S,
            "strategy": "parallel", "parallelism": TESTERS,
            "input": {"root": root, **given},
        },
    )  # fmt: skip
    if kill:
        name = await killed(client, kill, task["taskId"])
        print(f"killed the process of {name}, which had a shard")
    await ended(client, task["taskId"])
    if kill:
        agents = (await call(client, "agent_list", swarmId=kill))["agents"]
        left = [agent for agent in agents if agent["status"] == "active"]
        again = [step for step in await steps_of(client, kill, task["taskId"]) if step["losses"]]
        print(f"agents left: {len(left)}; shards begun again by another: {len(again)}")
        assert len(left) == TESTERS - 1
        assert len(again) == 1
    result = await call(client, "task_result", taskId=task["taskId"])
    return result["result"], time.monotonic() - began


async def killed(client: Client, swarm: str, task: str) -> str:
    """Kill the process of the agent that was given a shard last; its name."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        steps = await steps_of(client, swarm, task)
        runs = [step for step in steps if step["phase"] == "run" and step["kind"] == "call"]
        if any(step["status"] == "done" for step in runs):
            working = [step for step in runs if step["status"] == "assigned"]
            last = max(working, key=lambda step: step["sentAt"])
            agent = await call(client, "agent_status", agentId=last["agentId"], swarmId=swarm)
            os.kill(agent["pid"], signal.SIGKILL)
            return str(agent["name"])
        await asyncio.sleep(0.05)
    raise AssertionError("no agent had work")


async def steps_of(client: Client, swarm: str, task: str) -> list[dict[str, Any]]:
    """The steps of a task, from its log."""
    contents = await client.read_resource(f"swarm://{swarm}/tasks/{task}/log")
    text = contents[0].text
    assert text is not None
    return json.loads(text)["steps"]


def outcomes(report: dict[str, Any]) -> tuple[int, int, int, int]:
    """Passed, failed, flaky, skipped."""
    return report["passed"], report["failed"], report["flaky"], report["skipped"]


def show(title: str, report: dict[str, Any], took: float) -> None:
    """What a run came to."""
    passed, failed, flaky, skipped = outcomes(report)
    print(f"{title}: {passed} passed, {failed} failed, {flaky} flaky, {skipped} skipped")
    print(f"  {took:.1f} s for {sum(one['seconds'] for one in report['tests']):.1f} s of tests")
    for one in report["tests"]:
        if one["outcome"] in ("flaky", "failed"):
            lines = [line[1:].strip() for line in one["message"].splitlines() if line[:1] == "E"]
            why = lines[0] if lines else ""
            print(f"  {one['outcome']}: {one['id']} ({one.get('attempts', 1)} runs): {why}")


async def active(client: Client, swarm: str) -> None:
    """Wait until all agents work."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        agents = (await call(client, "agent_list", swarmId=swarm))["agents"]
        if len(agents) == TESTERS and {agent["status"] for agent in agents} == {"active"}:
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
        await asyncio.sleep(0.2)


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """A tool's structured result."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.structured
    return answer.structured


asyncio.run(main())
