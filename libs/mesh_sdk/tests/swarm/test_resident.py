import asyncio
import contextlib

import msgspec
import pytest

from mcp_proto.contracts.swarm import StepError, WorkItem, WorkResult
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.conditions import eventually
from mesh_sdk.swarm import resident as module
from mesh_sdk.swarm.resident import BodyGoneError, Job, Measured, Resident


class Body:
    """Runs what the item's phase says."""

    pid = 42

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.release = asyncio.Event()
        self.stopped = 0

    async def run(self, job: Job) -> WorkResult:
        item = job.item
        self.began.append(item.item)
        try:
            match item.phase:
                case "wait":
                    await self.release.wait()
                case "crash":
                    raise BodyGoneError("it died")
                case "bug":
                    raise RuntimeError("a bug of the host")
                case "late":
                    with contextlib.suppress(asyncio.CancelledError):  # finished meanwhile
                        await self.release.wait()
                case "ask" if not job.answers:
                    return WorkResult(
                        agent=item.agent, epoch=item.epoch, item=item.item,
                        status="input_required", requests={"q": msgspec.Raw(b"{}")},
                        state=msgspec.Raw(b"7"),
                    )  # fmt: skip
        finally:
            self.ended.append(item.item)
        text = f"{bytes(job.state).decode()}{bytes(job.answers.get('q', b'')).decode()}"
        return WorkResult(
            agent=item.agent, epoch=item.epoch, item=item.item, status="ok", text=text
        )

    async def ping(self, timeout_s: float) -> bool:
        return True

    async def stop(self, grace_s: float) -> int:
        self.stopped += 1
        return 0

    def measure(self) -> Measured:
        return Measured(memory_bytes=1)


class Rig:
    def __init__(self, tasks: Tasks, slots: int = 2) -> None:
        self.results: dict[str, WorkResult] = {}
        self.body = Body()
        self.unsent = 0
        self.changes = 0
        self.resident = Resident(
            "a", 1, self.body, slots=slots, tasks=tasks, settled=self.settled,
            unsent=lambda: self.unsent, changed=self.changed,
        )  # fmt: skip

    def settled(self, result: WorkResult) -> None:
        assert result.item not in self.results or (
            self.results[result.item].status == "input_required"
        ), "an attempt ended twice"
        self.results[result.item] = result

    def changed(self) -> None:
        self.changes += 1

    def take(self, name: str, phase: str = "wait", timeout_s: float = 10.0) -> None:
        assert self.resident.refusal() == ""
        item = WorkItem(
            agent="a", epoch=1, item=name, task="t", phase=phase, step=name, attempt=1,
            kind="call", payload=msgspec.Raw(b"{}"),
        )  # fmt: skip
        self.resident.take(item, timeout_s)

    async def ended(self, name: str) -> WorkResult:
        await eventually(lambda: name in self.results)
        return self.results[name]


@pytest.fixture
async def rig():
    tasks = Tasks("test")
    yield Rig(tasks)
    assert await tasks.close(1.0) == ()


async def test_attempts_beyond_the_slots_wait_and_beyond_that_are_refused(rig):
    for name in "1234":
        rig.take(name)
    await eventually(lambda: len(rig.body.began) == 2)
    assert rig.resident.refusal() == "busy"
    assert rig.resident.beat(["9"]).items == ("1", "2", "3", "4", "9")
    rig.body.release.set()
    for name in "1234":
        assert (await rig.ended(name)).status == "ok"
    assert rig.body.began == list("1234")
    assert rig.resident.refusal() == ""


async def test_agent_whose_results_are_not_taken_gets_no_work(rig):
    rig.unsent = module.UNSENT_MAX
    assert rig.resident.refusal() == "busy"


async def test_cancel_before_the_first_turn_ran_nothing(rig):
    rig.take("1")
    assert rig.resident.cancel("1")
    result = await rig.ended("1")
    assert (result.error.type, result.error.outcome) == ("cancelled", "not_executed")
    assert rig.body.began == []
    assert not rig.resident.cancel("1")


async def test_cancel_of_running_waiting_and_unknown_attempts(rig):
    for name in "123":
        rig.take(name)
    await eventually(lambda: len(rig.body.began) == 2)
    assert [rig.resident.cancel(name) for name in "1139"] == [True, True, True, False]
    assert (await rig.ended("1")).error.outcome == "unknown"
    assert (await rig.ended("3")).error.outcome == "not_executed"
    assert rig.resident.has("2")


async def test_attempt_that_finished_while_it_was_cancelled_keeps_its_result(rig):
    rig.take("1", "late")
    await eventually(lambda: rig.body.began)
    rig.resident.cancel("1")
    assert (await rig.ended("1")).status == "ok"


async def test_time_ends_running_and_waiting_attempts(rig):
    rig.take("1", timeout_s=0.02)
    rig.take("2")
    rig.take("3", timeout_s=0.02)
    first, third = await rig.ended("1"), await rig.ended("3")
    assert (first.error.type, first.error.outcome) == ("timeout", "unknown")
    assert (third.error.type, third.error.retryable) == ("timeout", True)
    assert rig.resident.has("2")


async def test_crash_and_bug_end_as_what_they_are(rig):
    rig.take("1", "crash")
    rig.take("2", "bug")
    assert (await rig.ended("1")).error.message == "it died"
    assert (await rig.ended("2")).error.type == "internal"


async def test_lost_body_ends_what_waits_and_what_asked(rig):
    rig.take("0", "ask")
    await rig.ended("0")
    for name in "123":
        rig.take(name)
    await eventually(lambda: len(rig.body.began) == 3)
    rig.resident.lost("it died", -9)
    rig.resident.lost("it died twice", 0)
    assert (await rig.ended("3")).error.outcome == "not_executed"
    assert (await rig.ended("0")).error.type == "crash"
    assert (rig.resident.state, rig.resident.exited) == ("gone", -9)
    assert rig.resident.refusal() == "unknown_agent"
    assert rig.resident.beat([]).state == "gone"


async def test_answers_go_on_with_the_state_of_the_attempt(rig):
    rig.take("1", "ask")
    assert (await rig.ended("1")).status == "input_required"
    assert rig.resident.beat([]).items == ("1",)
    assert rig.resident.busy == 0
    assert rig.resident.answer("1", {"q": msgspec.Raw(b"8")})
    await eventually(lambda: rig.results["1"].status == "ok")
    assert rig.results["1"].text == "78"
    assert not rig.resident.answer("1", {})


async def test_question_can_be_cancelled(rig):
    rig.take("1", "ask")
    await rig.ended("1")
    assert rig.resident.cancel("1", StepError(type="x", message="y"))
    assert rig.results["1"].error.type == "x"


async def test_questions_are_bounded(rig, monkeypatch):
    monkeypatch.setattr(module, "PARKED_MAX", 1)
    rig.take("1", "ask")
    rig.take("2", "ask")
    assert (await rig.ended("1")).status == "input_required"
    assert (await rig.ended("2")).error.type == "limit"


async def test_drain_gives_back_what_waits_and_finishes_what_runs(rig):
    for name in "123":
        rig.take(name)
    await eventually(lambda: len(rig.body.began) == 2)
    rig.resident.drain()
    assert rig.resident.refusal() == "busy"
    given_back = await rig.ended("3")
    assert (given_back.status, given_back.error.outcome) == ("rejected", "not_executed")
    idle = asyncio.create_task(rig.resident.idle())
    rig.body.release.set()
    await idle
    assert {rig.results[name].status for name in "12"} == {"ok"}


async def test_stop_ends_everything_once(rig):
    for name in "123":
        rig.take(name)
    await eventually(lambda: len(rig.body.began) == 2)
    assert await asyncio.gather(rig.resident.stop(0), rig.resident.stop(0)) == [0, 0]
    assert rig.body.stopped == 1
    assert (await rig.ended("1")).error.type == "stopped"
    assert (await rig.ended("3")).status == "rejected"
    assert rig.resident.state == "gone"


async def test_frost_comes_and_goes_and_each_change_is_told(rig):
    rig.resident.freeze(frozen=True)
    rig.resident.freeze(frozen=True)
    assert (rig.resident.state, rig.changes) == ("frozen", 1)
    rig.resident.freeze(frozen=False)
    assert (rig.resident.state, rig.changes) == ("active", 2)
    rig.resident.drain()
    rig.resident.freeze(frozen=True)
    assert rig.resident.state == "draining"
