"""What became of a run with kills, and whether that is right."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from tests.chaos.swarm_fence import Appends
from tests.chaos.swarm_line import Line
from tests.chaos.swarm_log import LogReader

__all__ = ["ENDS", "Judge", "Outcome", "Seen"]

ENDS = frozenset({"completed", "failed", "faulted", "cancelled"})
COUNTS = ("late", "duplicates", "retries", "ignored")


class Seen(msgspec.Struct, kw_only=True):
    """A task as its submitter saw it."""

    items: range
    once: bool
    """Its steps must not run twice."""
    statuses: set[str] = set()
    last: dict[str, Any] = {}

    @property
    def ends(self) -> set[str]:
        """Terminal states that were seen; one, in the end."""
        return self.statuses & ENDS

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return bool(self.ends)


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
    """Of these, kept as objects."""
    unseen: int = 0
    """Snapshots before which something was purged unread: what is counted is not all."""
    refused_appends: int = 0
    """Kept out of the log by the fence, by what the broker answered."""
    repeated_appends: int = 0
    """Second copies of a stored message, recognised by the broker."""
    complaints: dict[str, int] = {}
    """Lines of level error in the logs of coordinators and hosts."""
    call_repeats: int = 0
    agents_spawned: int = 0

    def add_executions(self, effects: Path, tasks: Iterable[Seen]) -> None:
        """What steps did, beside the results that they gave."""
        begun: Counter[int] = Counter()
        for row in effects.read_text().splitlines():
            if row.startswith("b "):
                begun[int(row[2:])] += 1
        once = {n for seen in tasks if seen.once for n in seen.items}
        self.wrong += [f"step {n} ran {begun[n]} times" for n in sorted(once) if begun[n] > 1]
        self.twice = sum(count - 1 for n, count in begun.items() if n not in once)

    def add_complaints(self, state: Path) -> None:
        """What processes logged as errors; ``state`` = folder of the mesh."""
        found: Counter[str] = Counter()
        for kind in ("swarm", "agent-host"):
            for path in state.glob(f"logs/{kind}-*.log"):
                for row in path.read_text(errors="replace").splitlines():
                    with suppress(msgspec.DecodeError):
                        said = msgspec.json.decode(row, type=_Said)
                        if said.level in ("error", "critical"):
                            found[f"{said.logger}: {said.msg}"] += 1
        self.complaints = dict(found)


class _Said(msgspec.Struct):
    level: str = ""
    logger: str = ""
    msg: str = ""


class Judge:
    """Compares what the submitter saw, what the log holds and what the broker answered.

    Args:
        outcome: is filled.
        log: read to its end.
        appends: watched all the time.
    """

    def __init__(self, outcome: Outcome, log: LogReader, appends: Appends) -> None:
        self._out, self._log, self._appends = outcome, log, appends

    async def judge(self, line: Line, tasks: Mapping[str, Seen]) -> None:
        """Fill the outcome."""
        out, log = self._out, self._log
        told: Counter[str] = Counter()
        for task, seen in tasks.items():
            told.update({name: seen.last["usage"][name] for name in COUNTS})
            self._judge_ends(task, seen)
            if not log.unseen:
                self._judge_log(task, seen)
            if seen.ends == {"completed"}:
                self._judge_result(task, seen, (await line.call("task_result", taskId=task)))
        out.told = dict(told)
        out.ignored, out.returned = dict(log.ignored), dict(log.lost)
        out.takeovers = len(log.owners) - 1
        out.snapshots, out.large_snapshots = log.snapshots, log.large
        out.unseen = len(log.unseen)
        out.wrong += [f"the snapshot {one} is not what its log says" for one in log.unequal]
        out.wrong += [f"message {one} was written behind a new owner's" for one in log.strays]
        out.refused_appends = len(self._appends.refused(log.ids.__contains__))
        out.repeated_appends = self._appends.repeated

    def _judge_ends(self, task: str, seen: Seen) -> None:
        out = self._out
        if len(seen.ends) != 1:
            out.wrong.append(f"{task} was seen as {sorted(seen.statuses)}")
        elif seen.ends != {"completed"}:
            out.wrong.append(f"{task}: {seen.last['status']} {seen.last['message']}")
        steps = len(seen.items)
        if seen.last["progress"] != {"done": steps, "total": steps}:
            out.lost.append(f"{task}: {seen.last['progress']}")

    def _judge_result(self, task: str, seen: Seen, answer: dict[str, Any]) -> None:
        out, result = self._out, answer["result"]
        expected = [n * n for n in seen.items]
        if not seen.once:
            out.done += len(result)
            if result != expected:
                out.wrong.append(f"{task}: the result is not the squares of {seen.items}")
            return
        failed = sum(phase["failed"] for phase in seen.last["phases"])
        given = [one for one in result if one is not None]
        out.failed_once += failed
        out.done += len(given)
        if not set(given) <= set(expected) or len(given) + failed != len(seen.items):
            out.wrong.append(f"{task}: {len(given)} results, {failed} failed")

    def _judge_log(self, task: str, seen: Seen) -> None:
        out, log = self._out, self._log
        if log.tasks[task] != 1:
            out.wrong.append(f"{task} ended {log.tasks[task]} times")
        if log.repeats[task] != seen.last["usage"]["retries"]:
            out.wrong.append(f"{task}: the log has {log.repeats[task]} repeated attempts")
        for index, n in enumerate(seen.items):
            step = (task, f"squares-{index}")
            if log.ends[step] != 1:
                (out.wrong if log.ends[step] else out.lost).append(f"{step}: {log.ends[step]} ends")
            if step in log.outputs and log.outputs[step] != n * n:
                out.wrong.append(f"{step}: {log.outputs[step]}")
            if step in log.failed and not (seen.once and "unknown" in log.failed[step]):
                out.wrong.append(f"{step}: {log.failed[step]}")
