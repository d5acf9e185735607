"""Five agents review Python code; every finding is voted on by those that know its class."""

import asyncio
import importlib.util
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mesh_sdk import Client

HERE = Path(__file__).parent
AGENTS = [
    {"type": "reviewer", "name": "ruff", "tools": ["ruff"]},
    {"type": "reviewer", "name": "pyflakes", "tools": ["pyflakes"]},
    {"type": "reviewer", "name": "pylint", "tools": ["pylint"]},
    {"type": "security", "name": "bandit", "tools": ["bandit"]},
    {"type": "security", "name": "rules", "tools": ["ast", "secrets"]},
]
TASK_S = 1_800
SHOWN = 12
OVER = ("completed", "failed", "faulted", "cancelled")


async def main() -> None:
    """Review what ``REVIEW`` names (below this repository), or the two samples."""
    asked = os.environ.get("REVIEW", "")
    async with Client() as client:
        agents = [
            {
                "type": one["type"], "name": one["name"], "capabilities": one["tools"],
                "config": {"tools": one["tools"]},
            }
            for one in AGENTS
        ]  # fmt: skip
        swarm = await call(client, "swarm_init", topology="star", initialAgents=agents)
        await active(client, swarm["swarmId"])
        names = {one["agentId"]: one["name"] for one in swarm["agents"]}
        if asked:
            place = (HERE.parents[1] / asked).resolve()
            await review(client, names, asked, place)
        else:
            shutil.copy(HERE / "bad.py.txt", "bad.py")
            votes = await review(client, names, "a bad file", Path("bad.py"))
            assert len(votes["accepted"]) == 13, votes
            assert not votes["rejected"]
            shutil.copytree(package("nats"), "nats")
            votes = await review(client, names, "the package nats-py", Path("nats"))
            assert votes["accepted"]
        ended = await call(client, "swarm_destroy", swarmId=swarm["swarmId"])
        assert ended["agentsTerminated"] == len(AGENTS), ended
    print("ok: every finding was voted on by the tools that know its class")


def package(name: str) -> Path:
    """Where an installed package is: real code that is at hand without a network."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


async def review(
    client: Client, names: dict[str, str], title: str, place: Path
) -> dict[str, list[dict[str, Any]]]:
    """One task; its votes."""
    place = place.resolve()
    if place.is_file():
        root, files = place.parent, [place.name]
    else:
        root = place
        found = (path.relative_to(place) for path in place.rglob("*.py"))
        skipped = {"node_modules", ".venv", "__pycache__"}
        files = sorted(path.as_posix() for path in found if not skipped & set(path.parts))
    began = time.monotonic()
    task = await call(
        client, "task_orchestrate",
        task={
            "description": f"review {title}", "template": "code_review", "timeout": TASK_S,
            "strategy": "parallel", "parallelism": len(AGENTS),
            "input": {"root": str(root), "files": files, "filesPerShard": 20},
        },
    )  # fmt: skip
    status = await ended(client, task["taskId"])
    votes = merged(status["votes"]["review"])
    took = time.monotonic() - began
    print(f"{title}: {len(files)} files, {took:.0f} s")
    unanimous = [one for one in votes["accepted"] if not one.get("against")]
    print(
        f"  {sum(map(len, votes.values()))} findings: {len(votes['accepted'])} accepted "
        f"({len(unanimous)} by all that know their class), {len(votes['rejected'])} rejected"
    )
    classes = Counter(one["item"]["class"] for one in votes["accepted"])
    print("  accepted:", ", ".join(f"{count} {name}" for name, count in classes.most_common(6)))
    for one in votes["rejected"][:SHOWN]:
        item = one["item"]
        yes = "+".join(names[voter] for voter in one["voters"])
        no = "+".join(names[voter] for voter in one.get("against", ()))
        print(f"  disputed {item['file']}:{item['line']} {item['class']}: {yes} against {no}")
    return votes


def merged(votes: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Votes of all shards; of one alone there is no number above them."""
    shards = [votes] if "status" in votes or "tally" in votes else list(votes.values())
    found: dict[str, list[dict[str, Any]]] = {"accepted": [], "rejected": [], "undecided": []}
    for shard in shards:
        for name, items in found.items():
            items.extend(shard["tally"]["items"][name])
    return found


async def active(client: Client, swarm: str) -> None:
    """Wait until all agents work."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        agents = (await call(client, "agent_list", swarmId=swarm))["agents"]
        if len(agents) == len(AGENTS) and {agent["status"] for agent in agents} == {"active"}:
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
        await asyncio.sleep(0.5)


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """A tool's structured result."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.structured
    return answer.structured


asyncio.run(main())
