import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_coordinator.core import fanning
from swarm_coordinator.core.spec import Coordination, Fanout, RetryPolicy, SwarmConfig, Topology
from swarm_coordinator.core.steps import bound, step_count, steps_of
from swarm_coordinator.core.topology import Network, network_of
from swarm_coordinator.core.views import AgentView, PhasePlan, PlanError, StepPlan

VOTE = Coordination()


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def ref(pointer: str, **more: object) -> dict[str, object]:
    return {"$ref": pointer, **more}


def team(count: int = 3) -> list[AgentView]:
    return [AgentView(id=f"a{i}", type="t", capabilities=("x",), joined_ms=i) for i in range(count)]


def net(topology: Topology = "mesh", count: int = 3) -> Network:
    return network_of(topology, team(count), SwarmConfig())


def phase(**members: object) -> PhasePlan:
    return PhasePlan(**{"name": "p", "where": "/task/phases/0", **members})  # type: ignore[arg-type]


def items(*values: object) -> Fanout:
    return Fanout(items=raw(values))


def made(
    one: PhasePlan,
    outputs: dict[str, object] | None = None,
    topology: Topology = "mesh",
    agents: list[AgentView] | None = None,
) -> list[StepPlan]:
    encoded = {name: raw(value) for name, value in (outputs or {}).items()}
    there = team() if agents is None else agents
    return steps_of(one, encoded, there, network_of(topology, there, SwarmConfig()))


def payloads(steps: list[StepPlan]) -> list[object]:
    return [msgspec.json.decode(step.payload) for step in steps]


def refused(one: PhasePlan, outputs: dict[str, object] | None = None, **more: object) -> PlanError:
    with pytest.raises(PlanError) as caught:
        made(one, outputs, **more)  # type: ignore[arg-type]
    return caught.value


def test_a_plain_phase_is_one_step_that_any_agent_may_do() -> None:
    (step,) = made(phase(input=raw({"q": 1}), timeout_s=9, on_failure="continue"))
    assert (step.step, step.phase, step.kind, step.agents) == (
        "p-0",
        "p",
        "call",
        ("a0", "a1", "a2"),
    )
    assert bytes(step.payload) == b'{"input":{"q":1}}'
    assert (step.timeout_s, step.on_failure, step.after, step.result) == (9, "continue", (), True)


@pytest.mark.parametrize(
    ("members", "payload"),
    [
        ({}, {"input": None}),
        ({"prompt": "say", "kind": "prompt"}, {"prompt": "say", "input": None}),
        ({"prompt": "say", "input": raw([1])}, {"prompt": "say", "input": [1]}),
        ({"tool": 'a"b', "kind": "tool"}, {"tool": 'a"b', "arguments": {}}),
        (
            {"tool": "t", "kind": "tool", "input": raw({"k": 1})},
            {"tool": "t", "arguments": {"k": 1}},
        ),
    ],
)
def test_a_payload_has_the_shape_of_its_kind(members: dict[str, object], payload: object) -> None:
    assert payloads(made(phase(**members))) == [payload]


def test_a_reference_is_filled_from_the_output_it_names() -> None:
    one = phase(input=raw({"deep": [{"x": ref("/q/output/list/1")}], "all": ref("/q/output")}))
    assert payloads(made(one, {"q": {"list": [1, {"y": 2}]}})) == [
        {"input": {"deep": [{"x": {"y": 2}}], "all": {"list": [1, {"y": 2}]}}}
    ]


def test_a_missing_reference_is_an_error_and_never_empty() -> None:
    one = phase(input=raw({"x": ref("/q/output/nothing")}))
    assert refused(one, {"q": {}}).where == "/q/output/nothing"
    assert refused(one, {}).message == "phase q has no output"


@pytest.mark.parametrize(
    ("given", "fanned", "inputs"),
    [
        (None, items(1, "a", None), [1, "a", None]),
        ({"r": 1, "f": 0}, items({"f": 1}, {"f": 2}), [{"r": 1, "f": 1}, {"r": 1, "f": 2}]),
        ({"v": ref("/item"), "n": ref("/index")}, items("a"), [{"v": "a", "n": 0}]),
        ({"v": ref("/item/deep/0")}, items({"deep": [7]}), [{"v": 7}]),
        (ref("/item"), items(1, 2), [1, 2]),
        ({"i": ref("/index")}, items("a"), [{"i": 0}]),
        (None, Fanout(items_from="/q/output/l"), [5, 6]),
        ([1, 2, 3, 4, 5], Fanout(shards=2), [[1, 2], [3, 4, 5]]),
        ([1, 2], Fanout(shards=5), [[1], [2]]),
        ([], Fanout(shards=5), []),
        (ref("/q/output/l"), Fanout(shards=2), [[5], [6]]),
        (None, items(), []),
    ],
)  # fmt: skip
def test_a_fan_out_gives_every_step_its_input(
    given: object, fanned: Fanout, inputs: list[object]
) -> None:
    one = phase(fanout=fanned) if given is None else phase(fanout=fanned, input=raw(given))
    steps = made(one, {"q": {"l": [5, 6]}})
    assert [payload["input"] for payload in payloads(steps)] == inputs  # type: ignore[index]
    assert [step.step for step in steps] == [f"p-{i}" for i in range(len(inputs))]


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"fanout": items(1), "input": raw({"a": 1})}, "/task/phases/0/input"),
        ({"fanout": items({"a": 1}), "input": raw([1])}, "/task/phases/0/input"),
        ({"fanout": items({"a": 1}), "input": raw({"x": ref("/item/b")})}, "/item/b"),
        ({"fanout": Fanout(shards=2), "input": raw({"a": 1})}, "/task/phases/0/input"),
        ({"fanout": Fanout(items_from="/q/output")}, "/q/output"),
        ({"fanout": Fanout(items_from="/q/output/x")}, "/q/output/x"),
        ({"input": raw(ref("/item"))}, "/task/phases/0/input"),
        ({"input": raw(ref("/previous", first=1))}, "/task/phases/0/input"),
        ({"agents": ("nobody",)}, "/task/phases/0"),
        ({"requires": ("gpu",)}, "/task/phases/0"),
    ],
)
def test_a_phase_that_has_no_steps_says_why(members: dict[str, object], where: str) -> None:
    assert refused(phase(**members), {"q": {"a": 1}}).where == where


def test_a_fan_out_over_too_many_items_is_refused() -> None:
    many = phase(fanout=Fanout(items_from="/q/output"))
    error = refused(many, {"q": list(range(fanning.STEPS_MAX + 1))})
    assert error.message == "10001 items; at most 10000"
    votes = phase(fanout=Fanout(items_from="/q/output"), vote=VOTE, kind="vote")
    assert "at most 10000 steps" in refused(votes, {"q": list(range(4_000))}).message


def test_inputs_that_are_too_large_together_are_refused() -> None:
    one = phase(fanout=items(*range(100)), input=raw({"big": "x" * 1_000_000, "i": ref("/item")}))
    assert "are over" in refused(one).message
    huge = phase(input=raw([ref("/q/output")] * 20))
    assert "is over" in refused(huge, {"q": "x" * 1_000_000}).message


def test_an_optional_fan_out_over_nothing_has_no_steps() -> None:
    one = phase(fanout=Fanout(items_from="/q/output/failures"), optional=True)
    assert made(one, {"q": {}}) == []
    assert made(one, {"q": None}) == []


def test_a_fan_out_that_needs_items_says_how_many() -> None:
    one = phase(fanout=Fanout(items_from="/q/output"), items_min=1)
    assert refused(one, {"q": []}).message == "0 items; at least 1 are needed"


def test_every_voter_has_a_step_of_its_own() -> None:
    steps = made(phase(vote=VOTE, kind="vote", prompt="?"))
    assert [(step.step, step.agents, step.ballot, step.group) for step in steps] == [
        ("p-0", ("a0",), True, 0),
        ("p-1", ("a1",), True, 0),
        ("p-2", ("a2",), True, 0),
    ]


def test_every_voter_votes_on_every_item() -> None:
    steps = made(phase(vote=VOTE, kind="vote", fanout=items("x", "y")), agents=team(2))
    assert [(step.step, step.agents, step.group) for step in steps] == [
        ("p-0v0", ("a0",), 0),
        ("p-0v1", ("a1",), 0),
        ("p-1v0", ("a0",), 1),
        ("p-1v1", ("a1",), 1),
    ]


def test_a_broadcast_has_one_step_for_each_agent_and_no_stand_in() -> None:
    steps = made(phase(each=True, prompt="x", kind="prompt"))
    assert [step.agents for step in steps] == [("a0",), ("a1",), ("a2",)]
    assert not any(step.ballot or step.after for step in steps)


def test_an_item_that_must_go_elsewhere_avoids_its_agent() -> None:
    fanned = items({"agent": "a1"}, {"agent": "stranger"}, {"agent": 5}, {})
    steps = made(phase(fanout=fanned, elsewhere="agent"))
    assert [step.avoid for step in steps] == [("a1",), (), (), ()]


def test_a_ring_hands_the_baton_round() -> None:
    steps = made(phase(fanout=items("w", "x", "y", "z")), topology="ring")
    assert [(step.prefer, step.after, step.takes) for step in steps] == [
        ("a0", (), "nothing"),
        ("a1", ("p-0",), "previous"),
        ("a2", ("p-1",), "previous"),
        ("a0", ("p-2",), "previous"),
    ]
    assert msgspec.json.decode(bound(steps[1], [b'{"n":1.0}'])) == {
        "input": "x",
        "previous": {"n": 1.0},
    }
    assert all(step.result for step in steps)


def test_voters_are_not_chained_in_a_ring() -> None:
    assert not any(step.after for step in made(phase(vote=VOTE, kind="vote"), topology="ring"))


def test_a_broadcast_in_a_ring_is_one_lap() -> None:
    steps = made(phase(each=True, prompt="x", kind="prompt"), topology="ring")
    assert [(step.agents, step.after) for step in steps] == [
        (("a0",), ()),
        (("a1",), ("p-0",)),
        (("a2",), ("p-1",)),
    ]


def test_a_reference_to_the_step_before_is_filled_when_it_is_known() -> None:
    given = {"seen": ref("/previous/sum", first=0), "all": [ref("/previous", first=None)]}
    one = phase(chained=True, input=raw(given), fanout=items({"v": 1}, {"v": 2}))
    first, second = made(one)
    assert msgspec.json.decode(first.payload) == {"input": {"seen": 0, "all": [None], "v": 1}}
    assert second.holes == (("/input/seen", "/sum"), ("/input/all/0", ""))
    assert msgspec.json.decode(bound(second, [b'{"sum":5}'])) == {
        "input": {"seen": 5, "all": [{"sum": 5}], "v": 2}
    }
    with pytest.raises(PlanError) as caught:
        bound(second, [b"{}"])
    assert caught.value.where == "/previous/sum"


def test_arguments_of_a_tool_get_the_step_before_only_where_they_refer_to_it() -> None:
    given = {"text": ref("/previous/text", first="")}
    one = phase(kind="tool", tool="t", chained=True, input=raw(given), fanout=items({}, {}))
    first, second = made(one)
    assert msgspec.json.decode(first.payload) == {"tool": "t", "arguments": {"text": ""}}
    done = bound(second, [b'{"text":"a"}'])
    assert msgspec.json.decode(done) == {"tool": "t", "arguments": {"text": "a"}}
    plain = phase(kind="tool", tool="t", chained=True, fanout=items({"a": 1}, {"a": 2}))
    assert bound(made(plain)[1], [b"1"]) == made(plain)[1].payload


def test_an_item_holds_against_a_reference_of_the_input() -> None:
    given = {"a": {"b": ref("/previous", first=0)}, "c": ref("/previous", first=0)}
    one = phase(chained=True, input=raw(given), fanout=items({"a": 1}, {"a": 2}))
    assert made(one)[1].holes == (("/input/c", ""),)


def test_the_first_of_a_chain_without_a_beginning_is_refused() -> None:
    one = phase(chained=True, input=raw({"a": ref("/previous")}), fanout=items({}, {}))
    assert refused(one).message == 'the first step has no previous one: give it "first"'


def test_a_sequential_phase_goes_on_from_the_phase_before() -> None:
    (step,) = made(phase(chained=True, previous="q"), {"q": {"x": 1}})
    assert msgspec.json.decode(step.payload) == {"input": None, "previous": {"x": 1}}
    placed = phase(chained=True, previous="q", input=raw({"y": ref("/previous/x", first=0)}))
    assert payloads(made(placed, {"q": {"x": 1}})) == [{"input": {"y": 1}}]


def test_voters_of_a_sequential_phase_all_get_the_phase_before_one_at_a_time() -> None:
    steps = made(phase(chained=True, previous="q", vote=VOTE, kind="vote"), {"q": 1})
    assert payloads(steps) == [{"input": None, "previous": 1}] * 3
    assert [step.after for step in steps] == [(), ("p-0",), ("p-1",)]
    assert [bound(step, [b"9"]) for step in steps] == [step.payload for step in steps]


def test_a_step_whose_predecessor_failed_goes_without() -> None:
    steps = made(phase(fanout=items(1, 2)), topology="ring")
    assert bound(steps[1], []) == steps[1].payload


def test_a_phase_hands_its_settings_to_its_steps() -> None:
    retry = RetryPolicy(max_attempts=7)
    (step,) = made(phase(retry=retry, idempotent=False, requires=("x",)))
    assert (step.retry, step.idempotent, step.requires) == (retry, False, ("x",))


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.lists(VALUES, max_size=8), st.sampled_from(["mesh", "ring", "star", "hierarchical"]))
def test_steps_are_stable_and_carry_every_item_once(
    values: list[object], topology: Topology
) -> None:
    one = phase(fanout=Fanout(items_from="/q/output"), input=raw({"v": ref("/item")}))
    steps = made(one, {"q": values}, topology)
    assert steps == made(one, {"q": values}, topology)
    assert [payload["input"]["v"] for payload in payloads(steps)] == values  # type: ignore[index]
    assert len({step.step for step in steps}) == len(steps)
    for step in steps:
        assert msgspec.json.decode(msgspec.json.encode(step), type=StepPlan) == step


@given(st.lists(st.integers(), max_size=30), st.integers(1, 12))
def test_shards_are_even_and_lose_nothing(values: list[int], count: int) -> None:
    steps = made(phase(fanout=Fanout(shards=count), input=raw(values)))
    parts = [payload["input"] for payload in payloads(steps)]  # type: ignore[index]
    assert [value for part in parts for value in part] == values
    sizes = {len(part) for part in parts}
    assert len(parts) == min(count, len(values))
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_ten_thousand_items_take_far_less_than_a_second() -> None:
    fanned = Fanout(items_from="/q/output")
    given = raw({"root": "r", "file": ref("/item/file"), "n": ref("/index")})
    outputs = {"q": [{"file": f"f{i}.py"} for i in range(10_000)]}
    encoded = {"q": raw(outputs["q"])}
    for topology in ("mesh", "ring", "hierarchical"):
        network = net(topology, 20)
        begun = time.process_time()
        steps = steps_of(phase(fanout=fanned, input=given), encoded, team(20), network)
        assert time.process_time() - begun < 0.8
        assert len(steps) == 10_000


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, 1),
        ({"each": True}, 3),
        ({"vote": VOTE}, 3),
        ({"vote": VOTE, "fanout": items(1, 2)}, 6),
        ({"fanout": items(1, 2)}, 2),
        ({"fanout": Fanout(shards=4)}, 4),
        ({"fanout": Fanout(items_from="/q/output")}, None),
    ],
)
def test_the_number_of_steps_is_known_before_or_not(
    members: dict[str, object], expected: int | None
) -> None:
    assert step_count(phase(**members), team()) == expected
