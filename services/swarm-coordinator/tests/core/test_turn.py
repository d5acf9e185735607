"""Whole tasks through the owner's turns."""

from tests.swarm_world import World, fanned, raw, task_of

from mcp_proto.contracts.swarm import Usage
from swarm_coordinator.core.events import decode_batch, encode_batch
from swarm_coordinator.core.evolve import evolve, restore, snapshot
from swarm_coordinator.core.spec import Aggregate, PhaseSpec


def test_a_task_of_one_step_completes_with_its_output() -> None:
    world = World(1)
    task = world.submit(task_of(PhaseSpec(name="a", input=raw({"x": 1}))))
    (item,) = world.working
    assert item == f"{task}.a-0-1"
    world.ok(item, {"y": 2}, usage=Usage(tokens=3))
    assert world.result_of(task) == {"y": 2}
    assert world.task(task).spent.tokens == 3
    assert world.agent_of("agent_01").items == {}


def test_a_wide_phase_uses_all_slots_and_gives_its_outputs_in_step_order() -> None:
    world = World(2, slots=2)
    task = world.submit(task_of(fanned(10), parallelism=2))
    assert len(world.working) == 4
    while world.working:
        for item in reversed(world.working):
            world.ok(item, int(item.rpartition("-")[0].rpartition("-")[2]))
    assert world.result_of(task) == list(range(10))


def test_phases_begin_when_those_they_need_have_ended() -> None:
    world = World(2)
    a = fanned(3, "a")
    b = PhaseSpec(name="b", input=raw({"sum": {"$ref": "/a/output/1"}}), dependencies=("a",))
    task = world.submit(task_of(a, b))
    for item in world.working:
        world.ok(item, 7)
    (item,) = world.working
    assert b'"sum":7' in bytes(world.sent[item][1].payload)
    world.ok(item, "done")
    assert world.result_of(task) == "done"


def test_the_log_gives_the_state_again_byte_for_byte() -> None:
    world = World(3)
    world.submit(task_of(fanned(20, aggregate=Aggregate(kind="sum")), parallelism=3))
    world.work_off(2)
    assert world.result_of("task_1") == 40
    state = None
    for event in decode_batch(encode_batch(world.log)):
        state = evolve(state, event)
    assert state is not None
    assert snapshot(state) == snapshot(world.state)
    assert snapshot(restore(snapshot(state))) == snapshot(state)
