"""An agent host with real processes, driven over a real broker by a scripted owner."""

import asyncio
import json
import os
import signal
from pathlib import Path

import msgspec
import pytest
from libs.mesh_agents.tests.rig import config, hosting
from libs.mesh_sdk.tests.swarm.rig import DEMO, HOST

from mcp_proto.contracts.swarm import Mail, Spawn, Spawned, spawn_subject
from mesh_agents.host import process
from mesh_agents.host.looks import has_gpu
from mesh_agents.service import NAME, build
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from mesh_chassis.testing.processes import is_alive
from mesh_sdk.swarm import membership


@pytest.fixture
async def owner(connect_bus, tmp_path):
    async with hosting(connect_bus, tmp_path, f"swarm_{tmp_path.name[-30:]}") as one:
        yield one


def is_there(path: str) -> bool:
    return Path(path).exists()


def value(result):
    return json.loads(bytes(result.structured))


# Spawning


async def test_host_bids_spawns_and_gives_the_result_of_a_step(owner):
    spawned = await owner.spawn("add", memory_bytes=2 * 1024**3)
    assert (spawned.refused, spawned.runtime, spawned.slots) == ("", "function", 4)
    assert is_alive(spawned.pid)
    assert 0 < spawned.spawn_ms < 20_000
    assert spawned.memory_bytes > 1_000_000
    assert (spawned.limited, spawned.limits_reason) == (True, "")
    result = await owner.do({"input": {"a": 1, "b": 2}})
    assert (result.status, result.agent, result.epoch) == ("ok", "agent_1", 1)
    assert value(result)["sum"] == 3
    assert value(result)["pid"] != spawned.pid
    assert result.usage.wall_ms > 0
    assert result.usage.cpu_ms > 0


async def test_host_refuses_what_it_cannot_run_and_says_why(owner):
    unknown = await owner.bid("no-such-type")
    assert (unknown.refused, unknown.bid) == ("no_runtime", "")
    assert {"add", "reviewer", "tool", "function", "command"} <= set(unknown.types)
    assert (await owner.bid("llm")).refused == "no_model_source"
    for runtime in ("vm", "container", "a2a", "external"):
        refused = await owner.bid("add", runtime=runtime)
        assert refused.refused == "no_runtime"
        assert refused.message
    assert (await owner.bid("add", cpu=10_000.0)).refused == "limit"
    assert (await owner.bid("add", memory_bytes=2**60)).refused == "limit"
    assert (await owner.bid("add", local=True, node="elsewhere")).refused == "limit"
    gpu = await owner.bid("add", gpu=True)
    assert gpu.refused == ("" if has_gpu() else "no_gpu")


async def test_bid_is_good_for_one_spawn_only(owner):
    bid = await owner.bid("add")
    assert 0 < bid.free <= 1
    spawn = Spawn(bid=bid.bid, swarm=owner.swarm, agent="agent_1", epoch=1, agent_type="add")
    subject = spawn_subject(DEMO, HOST)
    first = await owner.ask(subject, spawn, Spawned)
    assert first.refused == ""
    # The same spawn again, because its answer was lost: the same agent.
    assert await owner.ask(subject, spawn, Spawned) == first
    other = msgspec.structs.replace(spawn, agent="agent_2")
    assert (await owner.ask(subject, other, Spawned)).refused == "failed"


async def test_host_at_its_limit_refuses_further_agents(connect_bus, tmp_path):
    async with hosting(connect_bus, tmp_path, "swarm_limit", host={"agents_max": 1}) as owner:
        assert (await owner.spawn("add")).refused == ""
        assert (await owner.bid("add")).refused == "limit"
        assert (await owner.command("agent_1", stop=True)).exited == 0
        assert (await owner.bid("add")).refused == ""


async def test_function_that_cannot_be_imported_is_refused_with_the_reason(connect_bus, tmp_path):
    broken = config(tmp_path).functions[0]
    for call, reason in (
        ("sample_functions:nothing", "cannot be imported"),
        ("no_such_module:f", "No module named"),
        ("sample_functions:BROKEN", "cannot be called"),
    ):
        entry = msgspec.structs.replace(broken, name="broken", call=call)
        folder = tmp_path / call.replace(":", "-")
        async with hosting(connect_bus, folder, "swarm_broken", functions=(entry,)) as owner:
            spawned = await owner.spawn("broken")
            assert spawned.refused == "failed"
            assert reason in spawned.message
            assert [one.name for one in (folder / "agents").iterdir()] == [".mesh-agents"]


async def test_memory_limit_holds_in_the_process_of_the_agent(owner):
    limit = 1024**3
    spawned = await owner.spawn("plain", memory_bytes=limit)
    assert spawned.refused == "", spawned
    result = await owner.do({"input": {"do": "memory", "bytes": limit}})
    assert result.error.type == "limit"
    fits = await owner.do({"input": {"do": "memory", "bytes": 1_000_000}})
    assert value(fits) == {"bytes": 1_000_000}


async def test_new_life_of_an_agent_replaces_the_old_one(owner):
    first = await owner.spawn("add")
    second = await owner.spawn("add", epoch=2)
    assert (second.refused, is_alive(first.pid)) == ("", False)
    assert await owner.send(owner.item({}, item="task_1.old-1")) == {"task_1.old-1": "epoch"}
    assert (await owner.do({"input": {"a": 1, "b": 1}}, epoch=2)).epoch == 2
    assert (await owner.spawn("add", epoch=1)).refused == "failed"


async def test_spawn_by_an_owner_of_an_older_epoch_is_refused(owner):
    owner.epoch = 5
    assert (await owner.spawn("add")).refused == ""
    owner.epoch = 4
    assert (await owner.spawn("add", agent="agent_2")).refused == "failed"
    owner.epoch = 5


# Steps


@pytest.mark.parametrize("kind", ["add", "add_async"])
async def test_function_gets_its_arguments_by_name(owner, kind):
    spawned = await owner.spawn(kind)
    result = await owner.do({"input": {"a": 20, "b": 22}})
    assert value(result)["sum"] == 42
    assert (value(result)["pid"] == spawned.pid) is (kind == "add_async")
    wrong = await owner.do({"input": {"a": 1}})
    assert (wrong.status, wrong.error.type) == ("error", "input")
    assert (wrong.error.retryable, wrong.error.outcome) == (False, "not_executed")


@pytest.mark.parametrize(
    ("do", "kind", "retryable", "outcome"),
    [
        ({"do": "fail"}, "custom", False, "not_executed"),
        ({"do": "raise"}, "error", True, "executed"),
        ({"do": "odd"}, "output", False, "executed"),
        ({"do": "large", "bytes": 11_000_000}, "limit", False, "executed"),
        ({"do": "tool"}, "tool", True, "not_executed"),
    ],
)
async def test_step_that_fails_says_how(owner, do, kind, retryable, outcome):
    await owner.spawn("anything")
    result = await owner.do({"input": do})
    assert result.status == "error"
    error = result.error
    assert (error.type, error.retryable, error.outcome) == (kind, retryable, outcome)
    assert error.message


async def test_rejected_step_and_vote_arrive_as_such(owner):
    await owner.spawn("anything")
    assert (await owner.do({"input": {"do": "reject"}})).status == "rejected"
    vote = await owner.do({"input": {"do": "vote"}}, kind="vote")
    assert json.loads(bytes(vote.ballot.choice)) == "yes"
    assert vote.ballot.confidence == 0.5


async def test_large_result_arrives_whole(owner):
    await owner.spawn("anything")
    result = await owner.do({"input": {"do": "large", "bytes": 3_000_000}})
    assert len(value(result)["text"]) == 3_000_000


async def test_workdir_is_there_during_the_step_only(owner):
    await owner.spawn("anything")
    where = value(await owner.do({"input": {"do": "where"}}))
    assert where["exists"]
    assert not is_there(where["cwd"])


async def test_progress_reaches_the_owner_without_flooding_it(owner):
    await owner.spawn("anything")
    item = owner.item({"input": {"do": "report"}})
    await owner.send(item)
    await owner.result(item.item)
    await eventually(lambda: len(owner.progress) >= 2)
    assert owner.progress[-1].progress == 19
    assert len(owner.progress) < 6
    assert {one.item for one in owner.progress} == {item.item}


async def test_questions_of_a_step_come_back_and_the_answers_go_in(owner):
    await owner.spawn("anything")
    item = owner.item({"input": {"do": "ask"}})
    await owner.send(item)
    asked = await owner.result(item.item)
    assert (asked.status, list(asked.requests)) == ("input_required", ["q"])
    await eventually(lambda: item.item in owner.last().items, what="the open question in a beat")
    answers = {item.item: {"q": msgspec.Raw(b'{"action":"accept"}')}}
    assert (await owner.command(answers=answers)).known
    result = await owner.result(item.item, nth=2)
    assert value(result) == {"answers": {"q": {"action": "accept"}}, "state": {"n": 7}}
    assert not (await owner.command(answers=answers)).known


async def test_plain_function_runs_in_a_process_that_may_do_anything(owner):
    spawned = await owner.spawn("plain")
    assert (await owner.do({"input": {"do": "print"}})).text == "printed"
    assert (await owner.do({"input": {"do": "loop"}})).text == "later"
    assert (await owner.do({"input": {"do": "report"}})).text == "done"
    died = await owner.do({"input": {"do": "die"}})
    assert (died.error.type, died.error.outcome) == ("crash", "unknown")
    assert "status 3" in died.error.message
    assert "SIGSEGV" in (await owner.do({"input": {"do": "segfault"}})).error.message
    assert is_alive(spawned.pid)


async def test_steps_run_side_by_side_up_to_the_slots(owner):
    await owner.spawn("anything")
    items = [owner.item({"input": {"do": "sleep", "s": 0.3}}) for _ in range(4)]
    began = asyncio.get_running_loop().time()
    assert await owner.send(*items) == {}
    for item in items:
        assert (await owner.result(item.item)).text == "slept"
    assert asyncio.get_running_loop().time() - began < 1.0


# Commands


async def test_command_gets_the_payload_and_gives_json_or_text(owner):
    assert (await owner.spawn("command", config={"command": ["cat"]})).runtime == "command"
    payload = {"input": {"n": [1, 2]}, "prompt": "p"}
    assert value(await owner.do(payload)) == payload
    await owner.spawn("echo", agent="agent_2")
    assert (await owner.do({"input": {"text": "hi there"}}, agent="agent_2")).text == "hi there\n"
    dash = await owner.do({"input": {"text": "-e"}}, agent="agent_2")
    assert (dash.error.type, dash.error.retryable) == ("input", False)
    missing = await owner.do({"input": {}}, agent="agent_2")
    assert "text" in missing.error.message


async def test_command_that_fails_shows_status_and_standard_error(owner):
    await owner.spawn("fails")
    result = await owner.do({"input": {}})
    assert result.error.type == "exit"
    assert "status 3: why" in result.error.message


async def test_command_outside_of_the_list_is_refused(owner):
    refused = await owner.spawn("command", config={"command": ["rm"]})
    assert refused.refused == "no_runtime"
    refused = await owner.spawn("command", config={"command": ["cat", "/etc/passwd"]})
    assert refused.refused == "no_runtime"


async def test_cancelled_command_ends_with_everything_it_started(owner):
    await owner.spawn("sleeps")
    item = owner.item({"input": {"s": 1000}})
    await owner.send(item)
    await owner.said("active")
    await owner.command(cancel=(item.item,))
    result = await owner.result(item.item)
    assert (result.error.type, result.error.retryable) == ("cancelled", False)


# Cancel, time, repeats


async def test_cancel_ends_a_coroutine_a_process_and_what_waits(owner, tmp_path):
    await owner.spawn("anything")
    await owner.spawn("plain", agent="agent_2")
    file = tmp_path / "pid"
    items = [
        *(owner.item({"input": {"do": "sleep", "s": 100}}) for _ in range(5)),
        owner.item({"input": {"do": "tree", "file": str(file)}}, agent="agent_2"),
    ]
    assert await owner.send(*items) == {}
    await eventually(lambda: file.exists() and file.read_text())
    pid = int(file.read_text())
    await owner.command(cancel=tuple(item.item for item in items))
    ends = [await owner.result(item.item) for item in items]
    assert {one.error.type for one in ends} == {"cancelled"}
    assert ends[4].error.outcome == "not_executed"
    await eventually(lambda: not is_alive(pid))


@pytest.mark.slow
async def test_process_that_ignores_sigterm_is_killed_after_five_seconds(owner, tmp_path):
    await owner.spawn("plain")
    file = tmp_path / "pid"
    item = owner.item({"input": {"do": "stubborn", "file": str(file)}})
    await owner.send(item)
    await eventually(lambda: file.exists() and file.read_text())
    began = asyncio.get_running_loop().time()
    await owner.command(cancel=(item.item,))
    assert (await owner.result(item.item)).error.type == "cancelled"
    assert 4.5 < asyncio.get_running_loop().time() - began < 7
    assert not is_alive(int(file.read_text()))


async def test_attempt_that_exceeds_its_time_ends_by_it(owner):
    await owner.spawn("anything")
    result = await owner.do({"input": {"do": "sleep", "s": 100}}, timeout_ms=200)
    assert (result.error.type, result.error.outcome) == ("timeout", "unknown")
    late = await owner.do({"input": {"do": "sleep", "s": 100}}, deadline_ms=1)
    assert late.error.type == "timeout"


async def test_repeat_of_work_runs_once_and_resends_its_result(owner):
    await owner.spawn("anything")
    item = owner.item({"input": {"do": "where"}})
    assert await owner.send(item, item) == {}
    first = await owner.result(item.item)
    assert await owner.send(item) == {}
    again = await owner.result(item.item, nth=2)
    assert again == first


async def test_result_is_sent_again_until_it_is_taken(owner):
    await owner.spawn("anything")
    owner.lose = 2
    item = owner.item({"input": {"do": "where"}})
    await owner.send(item)
    await owner.result(item.item, nth=3)
    owner.taken = False
    other = owner.item({"input": {"do": "where"}})
    await owner.send(other)
    await owner.result(other.item, nth=2)
    await eventually(lambda: other.item in owner.last().items, what="an untaken result in a beat")
    owner.taken = True
    owner.beats.clear()
    await eventually(lambda: owner.last() and not owner.last().items)
    assert len(owner.results[item.item]) == 3


async def test_flood_of_work_is_refused_beyond_the_slots(owner):
    await owner.spawn("anything")
    items = [owner.item({"input": {"do": "sleep", "s": 0.2}}) for _ in range(200)]
    refused = await owner.send(*items)
    assert set(refused.values()) == {"busy"}
    taken = [item for item in items if item.item not in refused]
    assert len(taken) == 8
    for item in taken:
        assert (await owner.result(item.item)).status == "ok"


async def test_work_for_nobody_is_refused_item_by_item(owner):
    stranger = owner.item({})
    assert await owner.send(stranger) == {stranger.item: "unknown_agent"}
    await owner.spawn("anything")
    owner.epoch = 3
    assert await owner.send() == {}
    owner.epoch = 2
    item = owner.item({"input": {"do": "where"}})
    assert await owner.send(item) == {item.item: "stale_owner"}
    stale = await owner.command("agent_1", stop=True)
    assert "older epoch" in stale.message
    owner.epoch = 3
    assert (await owner.do({"input": {"do": "where"}})).status == "ok"


# Beats, death, frost


async def test_beat_names_every_item_and_measures_the_process(owner):
    spawned = await owner.spawn("anything")
    items = [owner.item({"input": {"do": "sleep", "s": 100}}) for _ in range(3)]
    await owner.send(*items)
    wanted = {item.item for item in items}
    await eventually(
        lambda: owner.last() is not None and set(owner.last().items) == wanted, timeout_s=8
    )
    beat = owner.last()
    assert (beat.state, beat.pid, beat.epoch) == ("active", spawned.pid, 1)
    assert beat.memory_bytes > 1_000_000
    assert beat.cpu_ms > 0
    owner.cancel.update(wanted)
    for item in items:
        assert (await owner.result(item.item)).error.type == "cancelled"


@pytest.mark.parametrize("how", ["outside", "die", "kill"])
async def test_death_of_the_process_ends_its_items_as_crashes(owner, how):
    spawned = await owner.spawn("anything")
    waiting = [owner.item({"input": {"do": "sleep", "s": 100}}) for _ in range(6)]
    if how == "outside":
        await owner.send(*waiting)
        os.kill(spawned.pid, signal.SIGKILL)
    else:
        await owner.send(*waiting[:3])
        await owner.send(owner.item({"input": {"do": how, "status": 9}}), *waiting[3:])
    ends = [await owner.result(item.item) for item in waiting]
    assert {one.error.type for one in ends} == {"crash"}
    assert {one.error.outcome for one in ends} == {"unknown", "not_executed"}
    gone = await owner.said("gone")
    assert gone.epoch == 1
    assert await owner.send(waiting[0]) != {}
    assert (await owner.spawn("anything", epoch=2)).refused == ""


@pytest.mark.slow
async def test_stopped_process_is_frozen_and_active_again_when_it_goes_on(owner):
    spawned = await owner.spawn("anything")
    item = owner.item({"input": {"do": "sleep", "s": 0.1}})
    os.kill(spawned.pid, signal.SIGSTOP)
    try:
        await owner.send(item)
        assert (await owner.command("agent_1", ping=True)).alive is False
        await owner.said("frozen")
        # Cancelled meanwhile: the process lives, so nothing is known yet.
        await owner.command(cancel=(item.item,))
    finally:
        os.kill(spawned.pid, signal.SIGCONT)
    owner.beats.clear()
    await owner.said("active")
    assert (await owner.result(item.item)).error.type == "cancelled"
    assert (await owner.command("agent_1", ping=True)).alive is True


async def test_agent_that_its_owner_missed_goes_on_in_the_life_that_the_owner_gave_it(owner):
    await owner.spawn("anything")
    old = owner.item({"input": {"do": "sleep", "s": 0.3}})
    await owner.send(old)
    assert (await owner.do({"input": {"do": "where"}}, epoch=2)).epoch == 2
    assert (await owner.result(old.item)).epoch == 1
    late = owner.item({"input": {"do": "where"}})
    assert await owner.send(late) == {late.item: "epoch"}
    owner.beats.clear()
    assert (await owner.said("active")).epoch == 2
    assert (await owner.command("agent_1", stop=True)).exited == 0
    await owner.said("gone")


async def test_stopped_process_can_be_ended(owner, monkeypatch):
    monkeypatch.setattr(membership, "STOP_GRACE_S", 0.3)
    spawned = await owner.spawn("anything")
    os.kill(spawned.pid, signal.SIGSTOP)
    assert (await owner.command("agent_1", stop=True)).exited == -signal.SIGKILL
    assert not is_alive(spawned.pid)


async def test_process_that_talks_nonsense_is_killed(owner):
    spawned = await owner.spawn("anything")
    result = await owner.do({"input": {"do": "garbage"}})
    assert result.error.type == "crash"
    assert "nonsense" in result.error.message
    assert not is_alive(spawned.pid)


async def test_process_that_floods_its_host_is_killed(owner):
    spawned = await owner.spawn("anything")
    result = await owner.do({"input": {"do": "flood"}})
    assert result.error.type == "crash"
    assert "talks" in result.error.message
    assert not is_alive(spawned.pid)


async def test_agent_that_ignores_a_cancel_is_killed(owner, monkeypatch):
    monkeypatch.setattr(process, "CANCEL_S", 0.5)
    spawned = await owner.spawn("anything")
    item = owner.item({"input": {"do": "deaf"}})
    await owner.send(item)
    await eventually(lambda: owner.progress)
    await owner.command(cancel=(item.item,))
    assert (await owner.result(item.item)).error.type == "cancelled"
    await owner.said("gone")
    assert not is_alive(spawned.pid)


# Commands of the owner


async def test_stop_ends_the_agent_and_its_items(owner):
    spawned = await owner.spawn("anything")
    items = [owner.item({"input": {"do": "sleep", "s": 100}}) for _ in range(5)]
    await owner.send(*items)
    stopped = await owner.command("agent_1", stop=True)
    assert (stopped.known, stopped.exited) == (True, 0)
    assert not is_alive(spawned.pid)
    ends = [await owner.result(item.item) for item in items]
    assert {one.status for one in ends} == {"error", "rejected"}
    await owner.said("gone")
    assert not (await owner.command("agent_1", ping=True)).known


async def test_drain_lets_the_running_step_finish_and_takes_nothing_new(owner):
    await owner.spawn("anything")
    running = owner.item({"input": {"do": "sleep", "s": 0.4}})
    await owner.send(running)
    assert (await owner.command("agent_1", drain=True)).known
    await owner.said("draining")
    other = owner.item({"input": {"do": "where"}})
    assert await owner.send(other) == {other.item: "busy"}
    assert (await owner.result(running.item)).text == "slept"


async def test_agents_that_the_owner_does_not_want_are_ended(owner):
    spawned = await owner.spawn("anything")
    owner.stop.add("agent_1")
    await owner.said("gone")
    assert not is_alive(spawned.pid)


async def test_mail_is_delivered_replied_to_or_undeliverable(owner):
    await owner.spawn("anything")
    letter = Mail(
        id="m1", sender="agent_9", type="command", action="do", params=msgspec.Raw(b'{"x":1}'),
        expect_reply=True, timeout_ms=2_000,
    )  # fmt: skip
    answer = await owner.command("agent_1", mail=letter)
    assert answer.mail == "replied"
    assert json.loads(bytes(answer.reply)) == {"echo": {"x": 1}, "from": "agent_9"}
    quiet = msgspec.structs.replace(letter, expect_reply=False)
    assert (await owner.command("agent_1", mail=quiet)).mail == "delivered"
    bad = msgspec.structs.replace(letter, action="fail")
    assert (await owner.command("agent_1", mail=bad)).mail == "undeliverable"
    await owner.spawn("echo", agent="agent_2")
    assert (await owner.command("agent_2", mail=letter)).mail == "undeliverable"
    assert not (await owner.command("agent_3", mail=letter)).known


# The end of the host


async def test_draining_host_lets_steps_finish_delivers_and_says_goodbye(connect_bus, tmp_path):
    async with hosting(connect_bus, tmp_path, "swarm_drain") as owner:
        spawned = await owner.spawn("anything")
        item = owner.item({"input": {"do": "sleep", "s": 0.5}})
        await owner.send(item)
        keep = owner
        # ``in_process`` drains behind this block.
        owner.stop.clear()
        leaving = asyncio.ensure_future(keep.result(item.item))
        await asyncio.sleep(0)
        mine = keep.beats
    # Behind the block the host is gone, and so is the owner; what it said is here.
    assert (await leaving).text == "slept"
    assert mine[-1].agents[0].state == "gone"
    assert not is_alive(spawned.pid)


@pytest.mark.slow
async def test_host_ends_a_step_that_outlasts_the_drain(connect_bus, tmp_path):
    began = asyncio.get_running_loop().time()
    async with hosting(connect_bus, tmp_path, "swarm_long") as owner:
        await owner.spawn("anything")
        item = owner.item({"input": {"do": "sleep", "s": 100}})
        await owner.send(item)
        owner_results = owner.results
    assert owner_results[item.item][0].error.type == "stopped"
    assert asyncio.get_running_loop().time() - began < 15


async def test_host_and_its_agents_start_within_the_rights_of_the_broker(
    broker, connect_bus, tmp_path
):
    bus = await connect_bus(NAME, HOST)
    async with in_process(build, config(tmp_path), bus):
        assert "Permissions Violation" not in broker.log


async def test_results_outlive_the_broker(broker, connect_bus, tmp_path):
    async with hosting(connect_bus, tmp_path, "swarm_broker") as owner:
        spawned = await owner.spawn("anything")
        item = owner.item({"input": {"do": "sleep", "s": 0.5}})
        await owner.send(item)
        await broker.kill()
        await broker.start()
        assert (await owner.result(item.item, timeout_s=30)).text == "slept"
        owner.beats.clear()
        assert (await owner.said("active")).pid == spawned.pid
