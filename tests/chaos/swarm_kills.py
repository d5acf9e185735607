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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from nats.aio.client import Client
from tests.chaos.swarm_fence import Appends
from tests.chaos.swarm_line import Line
from tests.chaos.swarm_log import LogReader, mirror_logs, mirror_values, operator
from tests.chaos.swarm_outcome import Judge, Outcome, Seen
from tests.e2e import processes
from tests.e2e.running_mesh import RunningMesh

__all__ = ["CONFIG", "Chaos", "Outcome"]

AGENTS = 12
AGENTS_MAX = 20
HOSTS = 3
TASK_STEPS = 500
OPEN_TASKS = 3
READY_S = 60.0
STUCK_S = 60.0
"""So long no step may end, whatever dies; how long the whole takes is the machine's affair."""
ONCE_EVERY = 5
"""Of so many tasks one must not run any of its steps twice."""
LARGE_BYTES = 300 * 1024
"""Of a value in memory that is kept as an object: so the bucket of large values is there."""
KINDS = {
    "agent killed": 141, "agent stopped 3 s": 22, "host killed": 9, "owner killed": 14,
    "owner stopped 10 s": 3, "owner stopped until replaced": 3, "broker killed": 8,
}  # fmt: skip
"""Of 200."""
APART_S = {
    "host killed": 4.0, "owner killed": 4.0, "owner stopped 10 s": 4.0,
    "owner stopped until replaced": 4.0, "broker killed": 9.0,
}  # fmt: skip
"""Between two kills of a kind: ``mesh up`` waits longer and longer before it starts one again that
never lived long, and a mesh without a broker does no steps. A broker that is killed again and
again at once is the subject of tests/integration/test_swarm_kills.py."""
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


class Chaos:
    """One run over a mesh that has started with ``CONFIG``.

    Args:
        mesh: running.
        kills: how many.
        steps: of all tasks together, a multiple of ``TASK_STEPS``.
        seed: of what is killed when.
        over_s: time over which kills are spread; longer where the work is slower.
        apart_s: least time between two kills of a kind, where it is not ``APART_S``.
    """

    def __init__(
        self,
        mesh: RunningMesh,
        *,
        kills: int,
        steps: int,
        seed: int,
        over_s: float,
        apart_s: Mapping[str, float] | None = None,
    ) -> None:
        self._mesh, self._chance, self._over_s = mesh, random.Random(seed), over_s
        self._apart_s = {**APART_S, **(apart_s or {})}
        self._effects = mesh.room / "effects"
        self._swarm = self._owner = ""
        self._tasks: dict[str, Seen] = {}
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
        client = await operator(self._mesh.nats, self._mesh.seed("operator"))
        lines = [Line(self._mesh) for _ in range(3)]
        try:
            await self._run(client, *lines)
        finally:
            for pid in self._frozen:
                _signal(pid, signal.SIGCONT)
            for line in lines:
                line.close()
            await client.close()
        out = self.outcome
        out.seconds = round(time.monotonic() - began, 1)
        out.kills = dict(self.killed)
        out.add_executions(self._effects, self._tasks.values())
        out.add_complaints(self._mesh.state)
        out.call_repeats = sum(line.repeats for line in lines)
        return out

    async def _run(self, client: Client, submitter: Line, keeper: Line, killer: Line) -> None:
        log, appends = await self._begin(submitter, client)
        self._log = log
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keep(keeper))
            group.create_task(log.follow(stop))
            async with asyncio.timeout(READY_S):
                await self._ready.wait()
            killing = group.create_task(self._kill_all(killer))
            await self._work(submitter)
            await killing
            await self._look(submitter)  # nothing dies any more
            keeping.cancel()
            stop.set()
        await log.read_all()
        await Judge(self.outcome, log, appends).judge(submitter, self._tasks)

    async def _begin(self, line: Line, client: Client) -> tuple[LogReader, Appends]:
        """A swarm, and all that is needed to see everything that is written of it."""
        await mirror_logs(client)
        made = await line.call(
            "swarm_init", topology="mesh", maxAgents=AGENTS_MAX, idempotencyKey="chaos"
        )
        self._swarm = made["swarmId"]
        tenant = await self._tenant(client)
        await line.call("memory_store", key="large", value="x" * LARGE_BYTES)
        await mirror_values(client, tenant)
        log = LogReader(client, tenant, self._swarm)
        appends = Appends(client, log.subject)
        await appends.watch()
        return log, appends

    async def _tenant(self, client: Client) -> str:
        body = b'{"subjects_filter":"mesh.v1.*.task.log.%b"}' % self._swarm.encode()
        found = await client.request("$JS.API.STREAM.INFO.MESH_SWARM_LOG", body, timeout=5)
        (subject,) = json.loads(found.data)["state"]["subjects"]
        return str(subject).split(".")[2]

    # Work

    async def _work(self, line: Line) -> None:
        """Submit tasks, a few open at once, and follow every one of them to its end."""
        waiting = [range(at, at + TASK_STEPS) for at in range(0, self._steps, TASK_STEPS)]
        until, done = time.monotonic() + STUCK_S, 0
        number = 0
        while True:
            running = [seen for seen in self._tasks.values() if not seen.over]
            if waiting and len(running) < OPEN_TASKS and self._in_step(len(self._tasks)):
                items, number = waiting.pop(0), number + 1
                once = number % ONCE_EVERY == 0
                made = await line.call("task_orchestrate", **self._submission(items, once))
                self._tasks[made["taskId"]] = Seen(items=items, once=once)
                continue
            if not running and not waiting:
                return
            await self._look(line)
            if self._done > done:
                until, done = time.monotonic() + STUCK_S, self._done
            if time.monotonic() > until:
                raise AssertionError(f"no step ends any more: {[seen.last for seen in running]}")
            await asyncio.sleep(0.5)

    def _in_step(self, tasks: int) -> bool:
        """Whether enough was killed for one task more: all of them shall have their share."""
        kills = sum(self.killed.values())
        due = (tasks + 1 - OPEN_TASKS) * TASK_STEPS / self._steps
        return kills >= due * (kills + len(self._plan))

    def _has_work(self) -> bool:
        """Whether enough was done for one kill more; else a slow machine would only die."""
        kills = sum(self.killed.values())
        due = kills / (kills + len(self._plan)) * self._steps
        return self._done >= due - OPEN_TASKS * TASK_STEPS

    @property
    def _done(self) -> int:
        """Steps that have ended, as far as was seen."""
        return sum(seen.last["progress"]["done"] for seen in self._tasks.values() if seen.last)

    async def _look(self, line: Line) -> None:
        """At the status of every task, also of those that have ended: they stay as they are."""
        for task, seen in self._tasks.items():
            status = await line.call("task_status", taskId=task)
            status.pop("result", None)
            seen.last = status
            seen.statuses.add(status["status"])

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
            # What came too late is not made up for: several at once are another test.
            due = max(due, time.monotonic() - pause) + pause * self._chance.uniform(0.5, 1.5)
            while not self._has_work() or (kind := await self._kill_one(line)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            self.killed[kind] += 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*self._wakes)

    async def _kill_one(self, line: Line) -> str | None:
        """The next of the plan that can be killed now; None = nothing can."""
        for kind in dict.fromkeys(self._plan):
            if time.monotonic() - self._struck.get(kind, 0.0) < self._apart_s.get(kind, 0.0):
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
            until_replaced = "replaced" in kind
            stop_s = 10.0 if "stopped" in kind else 0.0
            return self._instance(self._owner, stop_s, until_replaced=until_replaced)
        return False

    def _agent(self, stop_s: float) -> bool:
        pids: list[int] = []
        for number in range(1, HOSTS + 1):
            pids += _below(self._mesh.pids[f"agent-host-{number}"])
        pids = sorted(set(pids) - self._frozen)
        return bool(pids) and self._hit(self._chance.choice(pids), stop_s)

    def _instance(self, instance: str, stop_s: float, *, until_replaced: bool = False) -> bool:
        pid = self._mesh.pids[instance]
        if processes.of_pid(pid) is None or pid in self._frozen:
            return False
        self._mesh.notice()
        return self._hit(pid, stop_s, until_replaced=until_replaced)

    def _hit(self, pid: int, stop_s: float, *, until_replaced: bool = False) -> bool:
        if not stop_s:
            return _signal(pid, signal.SIGKILL)
        if not _signal(pid, signal.SIGSTOP):
            return False
        self._frozen.add(pid)
        task = asyncio.create_task(self._wake(pid, stop_s, until_replaced=until_replaced))
        self._wakes.add(task)
        return True

    async def _wake(self, pid: int, after_s: float, *, until_replaced: bool) -> None:
        until = time.monotonic() + after_s
        owners = len(self._log.owners)
        while time.monotonic() < until:
            await asyncio.sleep(0.02)
            if until_replaced and len(self._log.owners) > owners:
                break
        self._frozen.discard(pid)
        _signal(pid, signal.SIGCONT)


def _kinds(kills: int) -> Iterator[str]:
    """As many of each kind as its share of 200, the rest agents."""
    left = kills
    for kind, share in KINDS.items():
        count = share * kills // 200
        left -= count
        yield from [kind] * count
    yield from ["agent killed"] * left


def _below(pid: int) -> list[int]:
    """Descendants, as the kernel lists them: to look at every process takes half a core here."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                found += [int(child), *_below(int(child))]
    return found


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
    parser.add_argument("--broker-apart", type=float, default=APART_S["broker killed"])
    parser.add_argument("--room", type=Path, default=None, help="folder that is kept")
    args = parser.parse_args()
    room = args.room or Path(tempfile.mkdtemp(prefix="swarm-kills-"))
    mesh = RunningMesh(room, config=CONFIG).start()
    try:
        chaos = Chaos(
            mesh,
            kills=args.kills,
            steps=args.steps,
            seed=args.seed,
            over_s=args.over,
            apart_s={"broker killed": args.broker_apart},
        )
        outcome = asyncio.run(chaos.run())
    finally:
        mesh.stop()
    print(msgspec.json.format(msgspec.json.encode(outcome), indent=1).decode())


if __name__ == "__main__":
    main()
