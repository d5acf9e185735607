"""Kills agents, their hosts, owners and the broker at random while a swarm works.

``python -m tests.chaos.swarm_kills --kills 200 --steps 10000 --seed 5`` prints what became of it.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from tests.chaos.swarm_log import LogReader, mirrored, operator
from tests.e2e import processes
from tests.e2e.running_mesh import RunningMesh

__all__ = ["CONFIG", "Chaos", "Outcome"]

AGENTS = 12
AGENTS_MAX = 20
HOSTS = 3
TASK_STEPS = 500
OPEN_TASKS = 3
ONCE_EVERY = 5
"""Of so many tasks one must not run any of its steps twice."""
CALL_S = 8.0
KINDS = {
    "agent killed": 144, "agent stopped 3 s": 22, "host killed": 9,
    "owner killed": 14, "owner stopped 10 s": 3, "broker killed": 8,
}  # fmt: skip
"""Of 200."""
APART_S = {"host killed": 4.0, "owner killed": 4.0, "owner stopped 10 s": 4.0, "broker killed": 9.0}
"""Between two kills of a kind: ``mesh up`` waits longer and longer before it starts one again that
never lived long, and a mesh without a broker is no subject of this run."""
_LINE_BYTES = 16 * 1024 * 1024
CONFIG = f"""
[performance]
rate_limit_per_second = 100000

[swarm]
coordinators = 2

[agents]
hosts = {HOSTS}

[[agents.functions]]
name = "square"
call = "swarm_steps:square"
path = "{Path(__file__).parent}"
slots = 8
"""


class Outcome(msgspec.Struct, kw_only=True):
    """What became of a run; ``lost`` and ``wrong`` must be empty."""

    seconds: float = 0.0
    kills: dict[str, int] = {}
    steps: int = 0
    done: int = 0
    failed_once: int = 0
    """Steps that must not run twice, whose agent was lost: they failed, outcome unknown."""
    lost: list[str] = []
    wrong: list[str] = []
    twice: int = 0
    """Executions beside the first, of steps that may run twice."""
    ignored: dict[str, int] = {}
    told: dict[str, int] = {}
    """What the statuses of all tasks say of late and repeated results."""
    takeovers: int = 0
    returned: dict[str, int] = {}
    snapshots: int = 0
    """Compared with what their log says, and equal."""
    large_snapshots: int = 0
    """Objects: not compared."""
    unseen: int = 0
    refused_appends: int = 0
    call_repeats: int = 0
    agents_spawned: int = 0


class Line:
    """Calls tools over TCP; connects anew and repeats until there is an answer."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._last = 0
        self.repeats = 0

    async def once(self, tool: str, **arguments: object) -> dict[str, Any]:
        """One answer; OSError, TimeoutError or RuntimeError (refused) otherwise."""
        try:
            async with asyncio.timeout(CALL_S):
                return await self._asked(tool, arguments)
        except (OSError, TimeoutError):
            self.close()
            raise

    async def call(self, tool: str, within_s: float = 60.0, **arguments: object) -> dict[str, Any]:
        """An answer, however often it has to be asked for; only for what may be repeated."""
        until = time.monotonic() + within_s
        while True:
            try:
                return await self.once(tool, **arguments)
            except (OSError, TimeoutError, RuntimeError):
                if time.monotonic() > until:
                    raise
                self.repeats += 1
                await asyncio.sleep(0.2)

    def close(self) -> None:
        """Forget the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _asked(self, tool: str, arguments: dict[str, object]) -> dict[str, Any]:
        if self._streams is None:
            host, port = self._mesh.tcp
            self._streams = await asyncio.open_connection(host, port, limit=_LINE_BYTES)
        reader, writer = self._streams
        self._last += 1
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": self._last, "method": "tools/call", "params": params}
        writer.write(json.dumps(message).encode() + b"\n")
        while True:
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("the edge has closed the connection")
            answer = json.loads(line)
            if answer.get("id") == self._last:
                break
        if "error" in answer or answer["result"].get("isError"):
            raise RuntimeError(f"{tool}: {line[:600]!r}")
        found: dict[str, Any] = answer["result"]["structuredContent"]
        return found


class Chaos:
    """One run over a mesh that has started with ``CONFIG``.

    Args:
        mesh: running.
        kills: how many.
        steps: of all tasks together, a multiple of ``TASK_STEPS``.
        seed: of what is killed when.
        over_s: time over which kills are spread.
    """

    def __init__(
        self, mesh: RunningMesh, *, kills: int, steps: int, seed: int, over_s: float
    ) -> None:
        self._mesh, self._chance, self._over_s = mesh, random.Random(seed), over_s
        self._effects = mesh.room / "effects"
        self._swarm = self._owner = ""
        self._tasks: dict[str, range] = {}
        self._once: set[str] = set()
        self._statuses: dict[str, set[str]] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._plan = list(_kinds(kills))
        self._chance.shuffle(self._plan)
        self._struck: dict[str, float] = {}
        self._wakes: set[asyncio.Task[None]] = set()
        self._frozen: set[int] = set()
        self._steps = steps
        self._ready = asyncio.Event()
        self.outcome = Outcome(steps=steps)
        self.killed: Counter[str] = Counter()

    async def run(self) -> Outcome:
        """Work, kill, wait for every end, and count."""
        began = time.monotonic()
        line = Line(self._mesh)
        client = await operator(self._mesh.nats, Path(self._mesh.seed("operator")))
        await mirrored(client)
        made = await line.call(
            "swarm_init", topology="mesh", maxAgents=AGENTS_MAX, idempotencyKey="chaos"
        )
        self._swarm = made["swarmId"]
        log = LogReader(client, f"mesh.v1.{await self._tenant(client)}.task.log.{self._swarm}")
        lines = [line, Line(self._mesh), Line(self._mesh)]
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(self._keep(lines[1])), group.create_task(log.follow())]
                async with asyncio.timeout(60):
                    await self._ready.wait()
                killer = group.create_task(self._kill_all(lines[2]))
                await self._work(lines[0])
                await killer
                await self._settle(lines[0])
                await asyncio.sleep(1.0)
                for task in beside:
                    task.cancel()
            while await log.read_on():
                pass
            await self._judge(lines[0], log)
        finally:
            for pid in self._frozen:
                _signal(pid, signal.SIGCONT)
            for one in lines:
                one.close()
            await client.close()
        self.outcome.seconds = round(time.monotonic() - began, 1)
        self.outcome.kills = dict(self.killed)
        self.outcome.call_repeats = sum(one.repeats for one in lines)
        return self.outcome

    async def _tenant(self, client: Any) -> str:
        body = b'{"subjects_filter":"mesh.v1.*.task.log.%b"}' % self._swarm.encode()
        found = await client.request("$JS.API.STREAM.INFO.MESH_SWARM_LOG", body, timeout=5)
        (subject,) = json.loads(found.data)["state"]["subjects"]
        return str(subject).split(".")[2]

    # Work

    async def _work(self, line: Line) -> None:
        """Submit tasks, a few open at once, and follow every one of them to its end."""
        waiting = [range(at, at + TASK_STEPS) for at in range(0, self._steps, TASK_STEPS)]
        until = time.monotonic() + self._over_s + 120
        number = 0
        while True:
            running = [task for task in self._tasks if not _ended(self._statuses[task])]
            if waiting and len(running) < OPEN_TASKS:
                items, number = waiting.pop(0), number + 1
                once = number % ONCE_EVERY == 0
                made = await line.call("task_orchestrate", **self._submission(items, once))
                self._tasks[made["taskId"]] = items
                self._statuses[made["taskId"]] = set()
                if once:
                    self._once.add(made["taskId"])
                continue
            if not running and not waiting:
                return
            if time.monotonic() > until:
                raise AssertionError(f"no end: {[self._last[one] for one in running]}")
            for task in self._tasks:
                status = await line.call("task_status", taskId=task)
                status.pop("result", None)
                self._last[task] = status
                self._statuses[task].add(status["status"])
            await asyncio.sleep(0.5)

    def _submission(self, items: range, once: bool) -> dict[str, object]:
        phase = {
            "name": "squares",
            "fanout": {"items": list(items)},
            "input": {"n": {"$ref": "/item"}, "effects": str(self._effects)},
            "idempotent": not once,
            "onFailure": "continue" if once else "fail",
        }
        task = {
            "description": f"squares of {items}",
            "parallelism": AGENTS,
            "strategy": "parallel",
            "phases": [phase],
            "execution": {"failureThreshold": 1.0 if once else 0.0},
        }
        key = f"chaos-{items.start}"
        return {"swarmId": self._swarm, "task": task, "idempotencyKey": key}

    async def _keep(self, line: Line) -> None:
        """As many agents as there shall be: what is lost is ended, what is missing is spawned."""
        while True:
            with suppress(OSError, TimeoutError, RuntimeError):
                found = (await line.once("agent_list", swarmId=self._swarm))["agents"]
                live = [one for one in found if one["status"] != "lost"]
                for _ in range(min(AGENTS - len(live), AGENTS_MAX - len(found))):
                    await line.once("agent_spawn", swarmId=self._swarm, agentType="square")
                    self.outcome.agents_spawned += 1
                if any(one["status"] in {"active", "busy"} for one in live):
                    # Not before somebody is there: steps that nobody may do any more fail.
                    for one in found:
                        if one["status"] == "lost":
                            await self._end(line, one["id"])
                if len(live) == AGENTS and all(one["status"] != "spawning" for one in live):
                    self._ready.set()
            await asyncio.sleep(0.5)

    async def _end(self, line: Line, agent: str) -> None:
        await line.once("agent_terminate", swarmId=self._swarm, agentId=agent)

    # Kills

    async def _kill_all(self, line: Line) -> None:
        pause = self._over_s / len(self._plan)
        due = time.monotonic()
        while self._plan:
            due += pause * self._chance.uniform(0.5, 1.5)
            while (kind := await self._kill_one(line)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            self.killed[kind] += 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*self._wakes)

    async def _kill_one(self, line: Line) -> str | None:
        """The next of the plan that can be killed now; None = nothing can."""
        for kind in dict.fromkeys(self._plan):
            if time.monotonic() - self._struck.get(kind, 0.0) < APART_S.get(kind, 0.0):
                continue
            if await self._kill(kind, line):
                self._struck[kind] = time.monotonic()
                self._plan.remove(kind)
                return kind
        return None

    async def _kill(self, kind: str, line: Line) -> bool:
        """One kill; False when there is nothing to kill now."""
        if kind.startswith("agent"):
            return self._agent(3.0 if "stopped" in kind else 0.0)
        if kind == "host killed":
            return self._instance(f"agent-host-{self._chance.randint(1, HOSTS)}", 0.0)
        if kind == "broker killed":
            return self._instance("nats-server", 0.0)
        with suppress(OSError, TimeoutError, RuntimeError):
            self._owner = (await line.once("swarm_status", swarmId=self._swarm))["owner"]
            return self._instance(self._owner, 10.0 if "stopped" in kind else 0.0)
        return False

    def _agent(self, stop_s: float) -> bool:
        pids: list[int] = []
        for number in range(1, HOSTS + 1):
            pids += [one.pid for one in processes.below(self._mesh.pids[f"agent-host-{number}"])]
        pids = sorted(set(pids) - self._frozen)
        return bool(pids) and self._hit(self._chance.choice(pids), stop_s)

    def _instance(self, instance: str, stop_s: float) -> bool:
        pid = self._mesh.pids[instance]
        if processes.of_pid(pid) is None or pid in self._frozen:
            return False
        self._mesh.notice()
        return self._hit(pid, stop_s)

    def _hit(self, pid: int, stop_s: float) -> bool:
        if not stop_s:
            return _signal(pid, signal.SIGKILL)
        if not _signal(pid, signal.SIGSTOP):
            return False
        self._frozen.add(pid)
        task = asyncio.create_task(self._wake(pid, stop_s))
        self._wakes.add(task)
        return True

    async def _wake(self, pid: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._frozen.discard(pid)
        _signal(pid, signal.SIGCONT)

    # Counting

    async def _settle(self, line: Line) -> None:
        """Once more the status of every task, when nothing dies any more."""
        for task in self._tasks:
            status = await line.call("task_status", taskId=task)
            status.pop("result", None)
            self._last[task] = status
            self._statuses[task].add(status["status"])

    async def _judge(self, line: Line, log: LogReader) -> None:
        out = self.outcome
        for task, items in self._tasks.items():
            await self._judge_task(line, log, task, items)
        begun: Counter[int] = Counter()
        for row in self._effects.read_text().splitlines():
            if row.startswith("b "):
                begun[int(row[2:])] += 1
        once = {n for task in self._once for n in self._tasks[task]}
        out.wrong += [f"step {n} ran {begun[n]} times" for n in once if begun[n] > 1]
        out.twice = sum(count - 1 for n, count in begun.items() if n not in once)
        out.ignored, out.returned = dict(log.ignored), dict(log.lost)
        out.takeovers, out.snapshots = len(log.owners), log.snapshots
        out.large_snapshots = log.large
        out.unseen = len(log.unseen)
        out.wrong += [f"the snapshot {one} is not what its log says" for one in log.unequal]
        logs = (path.read_text(errors="replace") for path in self._mesh.state.glob("logs/swarm-*"))
        out.refused_appends = sum(text.count("no longer owned here") for text in logs)

    async def _judge_task(self, line: Line, log: LogReader, task: str, items: range) -> None:
        out, status = self.outcome, self._last[task]
        ends = _ends(self._statuses[task])
        if len(ends) != 1:
            out.wrong.append(f"{task} was seen as {sorted(self._statuses[task])}")
        told: Counter[str] = Counter(out.told)
        told.update({k: status["usage"][k] for k in ("late", "duplicates", "retries", "ignored")})
        out.told = dict(told)
        if not log.unseen:
            self._judge_log(log, task, items)
        done = status["progress"]
        if done != {"done": TASK_STEPS, "total": TASK_STEPS}:
            out.lost.append(f"{task}: {done}")
        if ends != {"completed"}:
            out.wrong.append(f"{task}: {status['status']} {status['message']}")
            return
        result = (await line.call("task_result", taskId=task))["result"]
        expected = [n * n for n in items]
        if task not in self._once:
            out.done += len(result)
            if result != expected:
                out.wrong.append(f"{task}: the result is not the squares of {items}")
            return
        failed = sum(phase["failed"] for phase in status["phases"])
        given = [one for one in result if one is not None]
        out.failed_once += failed
        out.done += len(given)
        if not set(given) <= set(expected) or len(given) + failed != TASK_STEPS:
            out.wrong.append(f"{task}: {len(given)} results, {failed} failed")

    def _judge_log(self, log: LogReader, task: str, items: range) -> None:
        out = self.outcome
        if log.tasks[task] != 1:
            out.wrong.append(f"{task} ended {log.tasks[task]} times")
        for index, n in enumerate(items):
            step = (task, f"squares-{index}")
            if log.ends[step] != 1:
                (out.wrong if log.ends[step] else out.lost).append(f"{step}: {log.ends[step]} ends")
            if step in log.outputs and log.outputs[step] != n * n:
                out.wrong.append(f"{step}: {log.outputs[step]}")
            if step in log.failed and (task not in self._once or "unknown" not in log.failed[step]):
                out.wrong.append(f"{step}: {log.failed[step]}")


def _kinds(kills: int) -> Iterator[str]:
    """As many of each kind as its share of 200, the rest agents."""
    left = kills
    for kind, share in KINDS.items():
        count = share * kills // 200
        left -= count
        yield from [kind] * count
    yield from ["agent killed"] * left


def _ends(statuses: set[str]) -> set[str]:
    return statuses & {"completed", "failed", "faulted", "cancelled"}


def _ended(statuses: set[str]) -> bool:
    return bool(_ends(statuses))


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Run it and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--over", type=float, default=110.0, help="seconds over which to kill")
    parser.add_argument("--room", type=Path, default=None, help="folder that is kept")
    args = parser.parse_args()
    room = args.room or Path(tempfile.mkdtemp(prefix="swarm-kills-"))
    mesh = RunningMesh(room, config=CONFIG).start()
    try:
        chaos = Chaos(mesh, kills=args.kills, steps=args.steps, seed=args.seed, over_s=args.over)
        outcome = asyncio.run(chaos.run())
    finally:
        mesh.stop()
    print(msgspec.json.format(msgspec.json.encode(outcome), indent=1).decode())


if __name__ == "__main__":
    main()
