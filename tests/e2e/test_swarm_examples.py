"""Built-in agents through the whole stack: real files, real programs, votes, cancel, refusals."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.e2e.running_mesh import RunningMesh

from mesh_chassis.testing.conditions import eventually
from mesh_sdk import Client

Json = dict[str, Any]
OVER = {"completed", "failed", "faulted", "cancelled"}
LINTERS = ("ruff", "pyflakes", "pylint")
TASK_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What agents may read."""
    return tmp_path_factory.mktemp("given")


@pytest.fixture(scope="module")
def agents_mesh(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[RunningMesh]:
    room = tmp_path_factory.mktemp("room")
    running = RunningMesh(
        room, "--no-sample", config=f'[agents]\nroots = ["{folder}"]\n'
    ).start()  # fmt: skip
    yield running
    assert running.stop() == 0
    assert running.left() == []


class Swarm:
    """One swarm of one caller."""

    def __init__(self, client: Client, mesh: RunningMesh) -> None:
        self._client = client
        self._mesh = mesh
        self.id = ""
        self.names: dict[str, str] = {}

    async def call(self, tool: str, **arguments: object) -> Json:
        answer = await self._client.call_tool(tool, arguments)
        assert not answer.is_error, f"{answer.structured}\n{self._mesh.logs()}"
        return answer.structured

    async def begin(self, *agents: Json, **more: object) -> None:
        made = await self.call("swarm_init", topology="mesh", initialAgents=list(agents), **more)
        self.id = made["swarmId"]
        self.names = {one["agentId"]: one["name"] for one in made["agents"]}

        async def all_work() -> bool:
            listed = (await self.call("agent_list", swarmId=self.id))["agents"]
            return [one["status"] for one in listed] == ["active"] * len(agents)

        await eventually(all_work, timeout_s=20)

    async def submit(self, **task: object) -> str:
        asked = {"description": "work", "timeout": TASK_S, **task}
        made = await self.call("task_orchestrate", swarmId=self.id, task=asked)
        return made["taskId"]

    async def status(self, task: str) -> Json:
        return await self.call("task_status", taskId=task, fresh=True)

    async def ended(self, task: str) -> Json:
        found: Json = {}

        async def over() -> bool:
            nonlocal found
            found = await self.status(task)
            return found["status"] in OVER

        await eventually(over, timeout_s=TASK_S - 10)
        return found

    async def result(self, task: str) -> Any:
        status = await self.ended(task)
        assert status["status"] == "completed", f"{status}\n{self._mesh.logs()}"
        return (await self.call("task_result", taskId=task))["result"]


@pytest_asyncio.fixture
async def swarm(agents_mesh: RunningMesh) -> AsyncIterator[Swarm]:
    async with Client(agents_mesh.mcp) as client:
        made = Swarm(client, agents_mesh)
        yield made
        if made.id:
            await made.call("swarm_destroy", swarmId=made.id, force=True)


def _linters() -> list[Json]:
    return [
        {"type": "reviewer", "name": tool, "capabilities": [tool], "config": {"tools": [tool]}}
        for tool in LINTERS
    ]


@pytest.mark.slow
async def test_review_accepts_what_those_who_know_agree_on_and_shows_both_sides_of_a_dispute(
    swarm: Swarm, folder: Path
) -> None:
    pkg = folder / secrets.token_hex(4)
    pkg.mkdir()
    # pylint takes an import in __init__.py for an offer to others, the others do not.
    (pkg / "__init__.py").write_text("from json import dumps\n")
    (pkg / "one.py").write_text("import os\n\n\ndef f(x=[]):\n    return x == None\n")
    (pkg / "two.py").write_text("print(undefined)\n")
    await swarm.begin(*_linters())
    task = await swarm.submit(
        template="code_review", parallelism=3, strategy="parallel",
        input={"root": str(pkg), "files": ["__init__.py", "one.py", "two.py"], "shards": 3},
    )  # fmt: skip
    accepted = await swarm.result(task)
    assert [(one["file"], one["line"], one["class"]) for one in accepted] == [
        ("one.py", 1, "unused-import"), ("one.py", 4, "mutable-default"),
        ("one.py", 5, "singleton-comparison"), ("two.py", 1, "undefined-name"),
    ]  # fmt: skip
    votes = (await swarm.status(task))["votes"]["review"]
    (dispute,) = votes["0"]["tally"]["items"]["rejected"]
    assert dispute["item"]["class"] == "unused-import"
    assert [swarm.names[one] for one in dispute["voters"]] == ["ruff", "pyflakes"]
    assert [swarm.names[one] for one in dispute["against"]] == ["pylint"]
    mutable = votes["1"]["tally"]["items"]["accepted"][1]
    assert (mutable["competent"], len(mutable["voters"])) == (2, 2)


@pytest.mark.slow
async def test_path_outside_the_folders_fails_the_task_and_is_not_tried_again(
    swarm: Swarm,
) -> None:
    await swarm.begin({"type": "researcher", "name": "r"})
    phase = {"name": "look", "agents": ["r"], "input": {"query": "root", "files": ["/etc/passwd"]}}
    status = await swarm.ended(await swarm.submit(phases=[phase]))
    assert status["status"] == "failed"
    (failure,) = status["failures"]
    assert "not inside the given roots" in str(failure)
    assert status["usage"]["retries"] == 0


@pytest.mark.slow
async def test_types_without_a_model_do_real_work_one_after_the_other(
    swarm: Swarm, folder: Path
) -> None:
    place = folder / secrets.token_hex(4)
    place.mkdir()
    ugly = "import os\nx = {  'a':1 }\n"
    (place / "a.py").write_text(ugly)
    (place / "log.jsonl").write_text('{"ms": 1}\n{"ms": 3}\nbroken\n')
    names = ("coder", "analyst", "researcher", "security", "validator")
    await swarm.begin(*({"type": name, "name": name} for name in names))
    root = str(place)
    phases = [
        {"name": "code", "agents": ["coder"], "input": {"root": root}},
        {
            "name": "count", "agents": ["analyst"],
            "input": {
                "sources": [{"path": f"{root}/log.jsonl"}], "analysis": {"numbers": ["ms"]},
            },
        },
        {"name": "find", "agents": ["researcher"], "input": {"query": "broken", "root": root}},
        {"name": "scan", "agents": ["security"], "input": {"root": root, "tools": ["ast"]}},
        {
            "name": "judge", "agents": ["validator"],
            "dependencies": ["code", "count", "find", "scan"],
            "input": {
                "value": {
                    "diff": {"$ref": "/code/output/diff"},
                    "mean": {"$ref": "/count/output/groups/0/numbers/ms/mean"},
                    "unreadable": {"$ref": "/count/output/unreadable"},
                    "found": {"$ref": "/find/output/results/0"},
                    "findings": {"$ref": "/scan/output/findings"},
                },
                "assertions": [
                    {"pointer": "/diff", "is": "contains", "value": "-import os"},
                    {"pointer": "/mean", "is": "equals", "value": 2},
                    {"pointer": "/unreadable", "is": "equals", "value": 1},
                    {"pointer": "/found/line", "is": "equals", "value": 3},
                    {"pointer": "/findings", "is": "length", "value": 0},
                ],
            },
        },
    ]  # fmt: skip
    verdict = await swarm.result(await swarm.submit(phases=phases, parallelism=5))
    assert verdict == {"verdict": "approve", "valid": True, "checked": 5, "issues": []}
    assert (place / "a.py").read_text() == ugly


@pytest.mark.slow
async def test_coordinator_plans_a_quality_gate_and_the_validator_rejects_a_bad_tree(
    swarm: Swarm, folder: Path
) -> None:
    tree = folder / secrets.token_hex(4)
    tree.mkdir()
    (tree / "test_a.py").write_text("import os\n\n\ndef test_a():\n    assert True\n")
    names = ("coordinator", "reviewer", "tester", "validator")
    await swarm.begin(*({"type": name, "name": name} for name in names))
    task = await swarm.submit(
        planner=True, parallelism=4, input={"plan": "quality_gate", "root": str(tree)}
    )
    verdict = await swarm.result(task)
    assert verdict["verdict"] == "reject"
    assert [one["pointer"] for one in verdict["issues"]] == ["/review"]


@pytest.mark.slow
async def test_cancel_of_a_task_ends_the_program_of_its_step(swarm: Swarm, folder: Path) -> None:
    tree = folder / secrets.token_hex(4)
    tree.mkdir()
    mark = tree / "pid"
    (tree / "test_hang.py").write_text(
        "import os, pathlib, time\n"
        f"def test_a():\n    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    await swarm.begin({"type": "tester", "name": "t"})
    phase = {"name": "run", "agents": ["t"], "input": {"root": str(tree), "tests": ["."]}}
    task = await swarm.submit(phases=[phase])
    await eventually(lambda: mark.exists() and mark.read_text() != "", timeout_s=20)
    pid = int(mark.read_text())
    descriptor = os.pidfd_open(pid)
    try:
        await swarm.call("task_cancel", taskId=task)
        assert (await swarm.ended(task))["status"] == "cancelled"
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, ended.set)
        try:
            async with asyncio.timeout(10):
                await ended.wait()
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
