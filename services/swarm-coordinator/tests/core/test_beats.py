"""Agents: spawn, attach, beat, loss, return, drain, and what a beat shows to be missing."""

import pytest
from tests.swarm_world import HOST, World, fanned, raw, task_of

from mcp_proto.contracts.swarm import AgentBeat, Attach, Beat, Spawned
from swarm_coordinator.core import decide, effects
from swarm_coordinator.core.limits import LOST_KEPT_MS, RESEND_MS, SPAWN_MS
from swarm_coordinator.core.refusals import Refusal


def asked_for(world: World, agent: str = "a1", **more: object) -> None:
    world.do(
        decide.add_agent(
            world.state, agent=agent, agent_type="function", now_ms=world.now_ms, **more
        )  # type: ignore[arg-type]
    )


def test_an_agent_is_active_with_its_first_beat() -> None:
    world = World()
    asked_for(world)
    spawned = Spawned(runtime="function", slots=3, capabilities=("x",))
    world.do(decide.agent_spawned(world.state, "a1", HOST, spawned, world.now_ms))
    assert (world.agent_of("a1").status, world.agent_of("a1").free) == ("spawning", 0)
    world.beat("a1", host="somebody-else")
    assert world.agent_of("a1").status == "spawning"
    world.beat("a1")
    found = world.agent_of("a1")
    assert (found.status, found.slots, found.capabilities) == ("active", 3, ("x",))


def test_an_agent_that_nobody_can_run_or_that_never_reports_is_terminated() -> None:
    world = World()
    asked_for(world)
    world.do(decide.agent_refused(world.state, "a1", "no_gpu", "none here", world.now_ms))
    assert (world.agent_of("a1").status, world.agent_of("a1").reason) == (
        "terminated", "no_gpu: none here",
    )  # fmt: skip
    asked_for(world, "a2")
    world.wait(SPAWN_MS)
    assert world.agent_of("a2").status == "terminated"


def test_two_living_agents_cannot_have_one_name_nor_a_parent_that_is_not_there() -> None:
    world = World(1)
    with pytest.raises(Refusal, match="called agent_01"):
        asked_for(world, "b", name="agent_01")
    with pytest.raises(Refusal) as caught:
        asked_for(world, "b", parent="nobody")
    assert caught.value.reason == "parent"
    with pytest.raises(Refusal, match="timeout"):
        asked_for(world, "b", config=raw({"timeout": 0}))


def test_an_external_process_attaches_with_its_claim_and_again_in_a_new_life() -> None:
    world = World()
    asked_for(world, "e1", external=True, claim="hash")
    hello = Attach(agent="e1", claim="secret", boot="b1", slots=2)
    with pytest.raises(Refusal, match="claim"):
        decide.attach(world.state, "h2", hello, claim="wrong", now_ms=world.now_ms)
    world.do(decide.attach(world.state, "h2", hello, claim="hash", now_ms=world.now_ms))
    assert (world.agent_of("e1").status, world.agent_of("e1").epoch) == ("active", 1)
    assert decide.attach(world.state, "h2", hello, claim="hash", now_ms=world.now_ms) == []
    task = world.submit(task_of(fanned(1)))
    again = Attach(agent="e1", claim="secret", boot="b2", slots=2)
    world.do(decide.attach(world.state, "h3", again, claim="hash", now_ms=world.now_ms))
    found = world.agent_of("e1")
    assert (found.host, found.epoch) == ("h3", 2)
    (run,) = world.step(task, "work-0").runs
    assert (run.attempt, run.epoch) == (2, 2)
    told = world.beat("e1", host="h2")
    assert told.stop == ("e1",)


def test_an_older_life_of_an_external_program_is_told_to_stop_and_not_believed() -> None:
    world = World()
    asked_for(world, "e1", external=True, claim="hash")
    for boot in ("b1", "b2"):
        hello = Attach(agent="e1", claim="secret", boot=boot)
        world.do(decide.attach(world.state, "h", hello, claim="hash", now_ms=world.now_ms))
    said = AgentBeat(agent="e1", epoch=1, state="gone")
    for boot, events in (("b1", 0), ("b2", 1)):
        beat = Beat(boot=boot, node="n", agents=(said,))
        assert len(decide.beat(world.state, "h", beat, world.now_ms)) == events
    old = Beat(boot="b1", node="n", agents=(AgentBeat(agent="e1", epoch=1, state="active"),))
    assert decide.reconcile(world.state, "h", old, world.now_ms).stop == ("e1",)


def test_a_beat_sends_again_what_it_does_not_name_and_cancels_what_is_not_wanted() -> None:
    world = World(1, slots=2)
    task = world.submit(task_of(fanned(2)))
    first, second = world.working
    told = world.beat("agent_01", items={"agent_01": [first, "task_9.x-0-1"]})
    assert (told.resend, told.cancel) == ((), ("task_9.x-0-1",))
    world.now_ms += RESEND_MS + 1
    told = world.beat("agent_01", items={"agent_01": [first]})
    assert told.resend == (second,)
    (work,) = effects.work_items(world.state, told.resend)
    assert isinstance(work, effects.SendWork)
    assert [item.item for item in work.items] == [second]
    world.cancel(task)
    told = world.beat("agent_01", items={"agent_01": [first]})
    assert (told.resend, told.cancel) == ((), (first,))
    assert world.task(task).status == "cancelling"
    world.now_ms += RESEND_MS + 1
    world.beat("agent_01", items={"agent_01": []})
    assert world.task(task).status == "cancelled"


def test_a_host_that_began_anew_has_lost_its_agents() -> None:
    world = World(2, slots=1)
    task = world.submit(task_of(fanned(2), parallelism=2))
    world.now_ms += 16_000
    world.beat("agent_02")
    assert world.agent_of("agent_01").status == "lost"
    assert world.agent_of("agent_02").status == "active"
    assert world.step(task, "work-0").status == "ready"


def test_two_agents_whose_processes_end_in_one_beat_give_back_their_work_once() -> None:
    world = World(3, slots=2)
    task = world.submit(task_of(fanned(6), parallelism=3))
    world.beat("agent_01", "agent_02", state="gone")
    assert world.agent_of("agent_01").status == world.agent_of("agent_02").status == "terminated"
    assert [step.losses for step in world.task(task).steps.values()].count(1) == 4
    world.work_off(1)
    assert world.task(task).status == "completed"


def test_an_agent_that_does_not_come_back_makes_room_for_another() -> None:
    world = World(1)
    world.lose("agent_01")
    world.wait(LOST_KEPT_MS)
    assert world.agent_of("agent_01").status == "terminated"


def test_a_draining_agent_finishes_and_ends() -> None:
    world = World(2, slots=1)
    task = world.submit(task_of(fanned(3), parallelism=2))
    told = world.do(decide.drain(world.state, "agent_01", "make room", world.now_ms))
    assert [one.agent for one in told if isinstance(one, effects.DrainAgent)] == ["agent_01"]
    item = next(iter(world.agent_of("agent_01").items))
    world.ok(item, 1)
    assert world.agent_of("agent_01").status == "terminated"
    assert [one.agent for one in world.told if isinstance(one, effects.StopAgent)] == ["agent_01"]
    world.work_off(1)
    assert world.task(task).status == "completed"
    world.do(decide.drain(world.state, "agent_02", "", world.now_ms))
    assert world.agent_of("agent_02").status == "terminated"


def test_a_strange_host_is_told_to_stop_what_is_not_its_own() -> None:
    world = World(1)
    beat = Beat(
        boot="1", node="n",
        agents=(AgentBeat(agent="agent_01", epoch=1, state="active", items=("task_1.a-0-1",)),),
    )  # fmt: skip
    assert decide.beat(world.state, "other", beat, world.now_ms) == []
    told = decide.reconcile(world.state, "other", beat, world.now_ms)
    assert (told.stop, told.cancel) == (("agent_01",), ("task_1.a-0-1",))
