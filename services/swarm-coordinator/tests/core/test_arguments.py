import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.arguments import init_of, orchestrate_of
from swarm_coordinator.core.rule_classes import electorate
from swarm_coordinator.core.spec import (
    Aggregate,
    Budget,
    Coordination,
    Equality,
    Execution,
    Fanout,
    RetryPolicy,
    SwarmConfig,
    TaskSpec,
)
from swarm_coordinator.core.views import PlanError

CONFIG = SwarmConfig()


def body(value: object) -> bytes:
    return msgspec.json.encode(value)


def spec_of(value: object, config: SwarmConfig = CONFIG) -> TaskSpec:
    return orchestrate_of(body(value), config).spec


def refused(value: object) -> PlanError:
    with pytest.raises(PlanError) as caught:
        orchestrate_of(body(value), CONFIG)
    return caught.value


def of_task(**members: object) -> dict[str, object]:
    return {"task": {"description": "d", **members}}


def of_phase(**members: object) -> dict[str, object]:
    return of_task(phases=[{"name": "p", "prompt": "x", **members}])


def test_a_string_is_the_description_of_a_task_of_defaults() -> None:
    assert spec_of({"task": "look"}) == TaskSpec(description="look", strategy="adaptive")


def test_a_task_of_the_known_client_is_read() -> None:
    found = orchestrate_of(
        body({"task": "look", "priority": "high", "strategy": "auto", "dependencies": ["task_1"]}),
        CONFIG,
    )
    assert (found.spec.priority, found.spec.strategy) == ("high", "adaptive")
    assert (found.spec.dependencies, found.swarm, found.warnings) == (("task_1",), "", ())


def test_who_asks_for_a_weighted_vote_means_the_weights_of_the_agents() -> None:
    for said, wanted in ((None, "agent"), ("equal", "equal")):
        rules = {"votingMechanism": "weighted", **({"weights": said} if said else {})}
        found = orchestrate_of(body({"task": "x", "coordination": rules}), CONFIG)
        assert found.spec.coordination.weights == wanted


def test_the_nested_task_of_the_earlier_system_is_read() -> None:
    given = {
        "task": {
            "description": "d", "priority": "critical", "strategy": "parallel", "timeout": 300,
            "requiredCapabilities": ["a", "b", "a"], "parallelism": 3, "consensusRequired": True,
            "autoSpawn": True, "budget": {"wallS": 60, "tokens": 5, "toolCalls": 6, "messages": 7},
        },
        "swarmId": "swarm_1",
        "execution": {
            "mode": "distributed", "retryPolicy": "exponential_backoff",
            "resultAggregation": "weighted_vote", "failureThreshold": 0.2,
        },
        "coordination": {
            "consensusThreshold": 0.8, "votingMechanism": "weighted", "quorum": 0.25,
            "conflictResolution": "expert_priority", "equality": "text", "weights": "record",
        },
        "wait": True, "dryRun": True, "idempotencyKey": "k",
    }  # fmt: skip
    found = orchestrate_of(body(given), CONFIG)
    assert found.spec == TaskSpec(
        description="d",
        priority="critical",
        strategy="parallel",
        timeout=300,
        required_capabilities=("a", "b"),
        parallelism=3,
        consensus_required=True,
        auto_spawn=True,
        budget=Budget(wall_s=60, tokens=5, tool_calls=6, messages=7),
        execution=Execution(aggregate=Aggregate(kind="weighted_vote"), failure_threshold=0.2),
        coordination=Coordination(
            consensus_threshold=0.8,
            voting_mechanism="weighted",
            conflict_resolution="expert_priority",
            equality=Equality(kind="text"),
            weights="record",
            quorum=0.25,
        ),
    )
    assert (found.swarm, found.wait, found.dry_run) == ("swarm_1", True, True)
    assert (found.idempotency, found.warnings) == ("k", ())


def test_a_phase_is_read_with_all_its_members() -> None:
    phase = spec_of(
        of_task(
            phases=[
                {
                    "name": "p-1_x", "agents": ["tester"], "requires": ["gpu"], "tool": "t",
                    "input": {"a": 1.50}, "dependencies": ["q"],
                    "fanout": {"itemsFrom": "/q/output/x"},
                    "aggregate": {"kind": "sum", "pointer": "/n"},
                    "vote": {"votingMechanism": "unanimous"}, "timeout": 9, "retryPolicy": "fixed",
                    "idempotent": False, "onFailure": "continue", "approval": True,
                }
            ]
        ),
        SwarmConfig(consensus_threshold=0.9, conflict_resolution="revote"),
    ).phases[0]  # fmt: skip
    assert (phase.name, phase.agents, phase.requires, phase.tool) == (
        "p-1_x", ("tester",), ("gpu",), "t",
    )  # fmt: skip
    assert bytes(phase.input) == b'{"a":1.5}'
    assert phase.fanout == Fanout(items_from="/q/output/x")
    assert phase.aggregate == Aggregate(kind="sum", pointer="/n")
    assert phase.vote == Coordination(
        voting_mechanism="unanimous", consensus_threshold=0.9, conflict_resolution="revote"
    )
    assert (phase.timeout, phase.retry) == (9, RetryPolicy(factor=1.0))
    assert (phase.idempotent, phase.on_failure, phase.approval) == (False, "continue", True)


def test_an_input_keeps_its_bytes() -> None:
    raw = b'{"task":{"description":"d","input":{ "n" : 1.500 , "big":123456789012345678901234}}}'
    spec = orchestrate_of(raw, CONFIG).spec
    assert bytes(spec.input) == b'{ "n" : 1.500 , "big":123456789012345678901234}'


def test_defaults_come_from_the_swarm() -> None:
    config = SwarmConfig(
        strategy="balanced", voting_mechanism="quorum", consensus_threshold=0.6,
        conflict_resolution="human",
    )  # fmt: skip
    spec = spec_of({"task": "x"}, config)
    assert spec.strategy == "balanced"
    assert spec.coordination == Coordination(
        voting_mechanism="quorum", consensus_threshold=0.6, conflict_resolution="human"
    )


def test_a_review_is_voted_on_per_finding_where_nothing_else_is_said() -> None:
    rules = spec_of(of_task(template="code_review", input={"files": ["a"]})).coordination
    assert (rules.voting_mechanism, rules.equality.kind) == ("threshold", "items")
    assert rules.equality.keys == ("file", "line", "class")
    assert bytes(rules.electorate) == bytes(electorate())
    given = {"votingMechanism": "majority", "equality": "json", "electorate": {"*": ["lint"]}}
    spec = spec_of({**of_task(template="code_review"), "coordination": given})
    assert (spec.coordination.voting_mechanism, spec.coordination.equality.kind) == (
        "majority",
        "json",
    )
    assert bytes(spec.coordination.electorate) == b'{"*":["lint"]}'


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ("exponential_backoff", RetryPolicy()),
        ("none", RetryPolicy(max_attempts=1)),
        ("immediate", RetryPolicy(initial_ms=0)),
        ("fixed", RetryPolicy(factor=1.0)),
        ({}, RetryPolicy()),
        ({"maxAttempts": 5.0, "jitter": 0}, RetryPolicy(max_attempts=5, jitter=0.0)),
        ({"initialMs": 90_000}, RetryPolicy(initial_ms=90_000, max_ms=90_000)),
        ({"nonRetryable": ["input"]}, RetryPolicy(non_retryable=("input",))),
    ],
)
def test_a_retry_policy_is_a_name_or_an_object(given: object, policy: RetryPolicy) -> None:
    assert spec_of({"task": "x", "execution": {"retryPolicy": given}}).execution.retry == policy


@pytest.mark.parametrize(
    ("given", "equality"),
    [
        ("numeric", Equality(kind="numeric")),
        ({"kind": "numeric", "relative": 0.1}, Equality(kind="numeric", relative=0.1)),
        ({"kind": "pointer", "pointer": "/a"}, Equality(kind="pointer", pointer="/a")),
        ({"kind": "items", "keys": ["f"]}, Equality(kind="items", keys=("f",))),
        ({"kind": "judge", "agent": "j"}, Equality(kind="judge", agent="j")),
    ],
)
def test_an_equality_is_a_name_or_an_object(given: object, equality: Equality) -> None:
    assert (
        spec_of({"task": "x", "coordination": {"equality": given}}).coordination.equality
        == equality
    )


def test_null_is_the_same_as_not_given() -> None:
    given = {**of_task(priority=None, input=None, phases=None, budget=None), "execution": None}
    assert spec_of(given) == TaskSpec(description="d", strategy="adaptive")
    assert spec_of(given).input is ABSENT


def test_unknown_members_are_warnings_with_their_place() -> None:
    given = {
        "task": {
            "description": "d",
            "colour": 1,
            "phases": [{"name": "p", "prompt": "x", "a/b": 1}],
        },
        "execution": {"speed": 3, "retryPolicy": {"tries": 1}},
        "coordination": {"equality": {"kind": "json", "z": 1}},
        "x": 1,
    }
    assert set(orchestrate_of(body(given), CONFIG).warnings) == {
        f"{place} is unknown and was ignored"
        for place in (
            "/task/colour", "/task/phases/0/a~1b", "/execution/speed",
            "/execution/retryPolicy/tries", "/coordination/equality/z", "/x",
        )
    }  # fmt: skip


def test_an_alias_beside_its_member_is_a_warning() -> None:
    found = orchestrate_of(body({**of_task(priority="low"), "priority": "high"}), CONFIG)
    assert found.spec.priority == "low"
    assert found.warnings == ("/priority was ignored: /task/priority holds",)


def test_phases_beside_a_template_hold_and_warn() -> None:
    given = of_task(template="broadcast", planner=True, phases=[{"name": "p", "prompt": "x"}])
    assert len(orchestrate_of(body(given), CONFIG).warnings) == 2


def test_warnings_are_bounded() -> None:
    given = {"task": "x", **{f"x{i}": 1 for i in range(200)}}
    assert len(orchestrate_of(body(given), CONFIG).warnings) == 50


WRONG: list[tuple[object, str]] = [
    ({}, "/task"),
    ([], ""),
    ("x", ""),
    ({"task": None}, "/task"),
    ({"task": 3}, "/task"),
    ({"task": ["x"]}, "/task"),
    ({"task": ""}, "/task"),
    ({"task": " \n"}, "/task"),
    ({"task": "x" * 32_769}, "/task"),
    ({"task": {}}, "/task/description"),
    ({"task": {"description": 1}}, "/task/description"),
    (of_task(priority="urgent"), "/task/priority"),
    ({"task": "x", "priority": "urgent"}, "/priority"),
    (of_task(strategy="fastest"), "/task/strategy"),
    (of_task(strategy=""), "/task/strategy"),
    (of_task(timeout=0), "/task/timeout"),
    (of_task(timeout=86_401), "/task/timeout"),
    (of_task(timeout=1.5), "/task/timeout"),
    (of_task(timeout="60"), "/task/timeout"),
    (of_task(timeout=True), "/task/timeout"),
    (of_task(parallelism=21), "/task/parallelism"),
    (of_task(parallelism=-(2**70)), "/task/parallelism"),
    (of_task(requiredCapabilities="a"), "/task/requiredCapabilities"),
    (of_task(requiredCapabilities=["a", ""]), "/task/requiredCapabilities/1"),
    (of_task(requiredCapabilities=["x" * 129]), "/task/requiredCapabilities/0"),
    (of_task(requiredCapabilities=[str(i) for i in range(65)]), "/task/requiredCapabilities"),
    (of_task(template="magic"), "/task/template"),
    (of_task(consensusRequired="yes"), "/task/consensusRequired"),
    (of_task(budget={"tokens": 0}), "/task/budget/tokens"),
    (of_task(budget=[]), "/task/budget"),
    (of_task(phases={}), "/task/phases"),
    (of_task(phases=["a"]), "/task/phases/0"),
    (of_task(phases=[{"name": "p", "prompt": "x"}] * 101), "/task/phases"),
    (of_task(phases=[{"prompt": "x"}]), "/task/phases/0/name"),
    (of_task(phases=[{"name": "a b", "prompt": "x"}]), "/task/phases/0/name"),
    (of_task(phases=[{"name": "a/b", "prompt": "x"}]), "/task/phases/0/name"),
    (of_task(phases=[{"name": "é", "prompt": "x"}]), "/task/phases/0/name"),
    (of_task(phases=[{"name": "item", "prompt": "x"}]), "/task/phases/0/name"),
    (of_task(phases=[{"name": "a" * 65, "prompt": "x"}]), "/task/phases/0/name"),
    (of_task(phases=[{"name": "p"}]), "/task/phases/0"),
    (of_phase(tool="t"), "/task/phases/0"),
    (of_task(phases=[{"name": "p", "tool": "t", "input": [1]}]), "/task/phases/0/input"),
    (of_phase(fanout={}), "/task/phases/0/fanout"),
    (of_phase(fanout={"items": [], "shards": 2}), "/task/phases/0/fanout"),
    (of_phase(fanout={"items": {}}), "/task/phases/0/fanout/items"),
    (of_phase(fanout={"items": [0] * 10_001}), "/task/phases/0/fanout/items"),
    (of_phase(fanout={"itemsFrom": "a/b"}), "/task/phases/0/fanout/itemsFrom"),
    (of_phase(fanout={"shards": 0}), "/task/phases/0/fanout/shards"),
    (of_phase(fanout={"shards": 3}), "/task/phases/0/input"),
    (of_phase(onFailure="panic"), "/task/phases/0/onFailure"),
    (of_phase(aggregate="mode"), "/task/phases/0/aggregate"),
    (of_phase(aggregate={}), "/task/phases/0/aggregate/kind"),
    (of_phase(aggregate={"kind": "sum", "pointer": "n"}), "/task/phases/0/aggregate/pointer"),
    (of_phase(aggregate="reduce"), "/task/phases/0/aggregate"),
    (of_phase(aggregate={"kind": "reduce", "tool": "t", "agent": "a"}), "/task/phases/0/aggregate"),
    (of_phase(vote="majority"), "/task/phases/0/vote"),
    (of_phase(vote={"consensusThreshold": 1.1}), "/task/phases/0/vote/consensusThreshold"),
    (of_phase(vote={"electorate": [1]}), "/task/phases/0/vote/electorate"),
    (of_phase(vote={"equality": {"kind": "pointer"}}), "/task/phases/0/vote/equality"),
    (of_phase(vote={"equality": {"kind": "judge"}}), "/task/phases/0/vote/equality"),
    (of_phase(vote={"equality": 1}), "/task/phases/0/vote/equality"),
    (of_phase(retryPolicy="often"), "/task/phases/0/retryPolicy"),
    (of_phase(retryPolicy=3), "/task/phases/0/retryPolicy"),
    (of_phase(retryPolicy={"maxAttempts": 0}), "/task/phases/0/retryPolicy/maxAttempts"),
    (of_phase(retryPolicy={"factor": 0.5}), "/task/phases/0/retryPolicy/factor"),
    (
        of_phase(retryPolicy={"initialMs": 9, "maxMs": 3}),
        "/task/phases/0/retryPolicy/maxMs",
    ),
    ({"task": "x", "coordination": {"quorum": -0.1}}, "/coordination/quorum"),
    ({"task": "x", "coordination": {"quorumSize": 0}}, "/coordination/quorumSize"),
    ({"task": "x", "coordination": {"votingMechanism": "coin"}}, "/coordination/votingMechanism"),
    ({"task": "x", "execution": {"mode": "cloud"}}, "/execution/mode"),
    ({"task": "x", "execution": {"failureThreshold": 2}}, "/execution/failureThreshold"),
    ({"task": "x", "execution": {"resultAggregation": "best of"}}, "/execution/resultAggregation"),
    ({"task": "x", "execution": "local"}, "/execution"),
    ({"task": "x", "execution": {"mode": "near"}}, "/execution/mode"),
    ({"task": "x", "wait": 1}, "/wait"),
    ({"task": "x", "swarmId": 7}, "/swarmId"),
    ({"task": "x", "dependencies": [1]}, "/dependencies/0"),
    ({"task": "x", **{f"k{i}": 1 for i in range(300)}}, ""),
]


@pytest.mark.parametrize(("given", "where"), WRONG, ids=[where for _, where in WRONG])
def test_a_wrong_value_is_refused_with_its_place(given: object, where: str) -> None:
    error = refused(given)
    assert error.where == where
    assert error.message
    assert len(error.message) < 400


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"\xff", b'{"task":"\xff"}', b'{"task":"\\ud800"}', b"null", b"1e999", b"NaN",
        b'{"task":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"task":{"description":"d","input":' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
        b'{"task":{"description":"d","input":"\xff"}}',
        b'{"task":{"description":"d","timeout":1e999}}',
        b'{"task":{"description":"d","timeout":' + b"9" * 5_000 + b"}}",
        b'{"task":{"description":"d","phases":[{"name":"p","input":{"a":1e999}}]}}',
    ],
)  # fmt: skip
def test_hostile_bytes_are_refused_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(PlanError):
        orchestrate_of(raw, CONFIG)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
MEMBERS = st.sampled_from((
    "description", "priority", "strategy", "timeout", "requiredCapabilities", "parallelism",
    "template", "input", "budget", "phases", "planner", "name", "agents", "tool", "prompt",
    "fanout", "aggregate", "vote", "retryPolicy",
))  # fmt: skip


@given(st.dictionaries(MEMBERS, JSON, max_size=6), st.dictionaries(MEMBERS, JSON, max_size=6))
def test_whatever_is_given_a_task_is_read_or_refused(
    task: dict[str, object], phase: dict[str, object]
) -> None:
    named = {"name": "p", **phase}
    for each in ({"task": task}, of_task(phases=[phase]), of_task(phases=[named])):
        try:
            found = orchestrate_of(body(each), CONFIG)
        except PlanError as error:
            assert error.where.startswith("/task")  # noqa: PT017
        else:
            encoded = msgspec.json.encode(found.spec)
            assert msgspec.json.decode(encoded, type=TaskSpec) == found.spec


def test_a_swarm_of_defaults_needs_its_topology_only() -> None:
    found = init_of(body({"topology": "mesh"}))
    assert (found.topology, found.config, found.agents) == ("mesh", SwarmConfig(), ())


def test_a_swarm_of_the_known_client_is_read() -> None:
    found = init_of(body({"topology": "star", "maxAgents": 5, "strategy": "auto"}))
    assert (found.config.max_agents, found.config.strategy, found.warnings) == (5, "adaptive", ())


def test_a_swarm_is_read_with_all_its_members() -> None:
    given = {
        "topology": "hierarchical", "name": "n", "idempotencyKey": "k", "maxAgents": 3,
        "config": {
            "maxAgents": 7, "consensusThreshold": 0.6, "votingMechanism": "quorum", "fanout": 2,
            "conflictResolution": "human", "relay": True, "siblings": True, "predecessor": True,
            "memoryTtl": 60, "strategy": "balanced", "zoom": 1,
        },
        "initialAgents": [
            {"type": "tester", "name": "a", "capabilities": ["x"], "config": {"any": [1]}},
            {"type": "tester", "parent": "a", "config": {"capabilities": ["y"]}, "nickname": "b"},
        ],
    }  # fmt: skip
    found = init_of(body(given))
    assert found.config == SwarmConfig(
        max_agents=7, consensus_threshold=0.6, voting_mechanism="quorum", fanout=2, relay=True,
        conflict_resolution="human", siblings=True, predecessor=True, memory_ttl=60,
        strategy="balanced",
    )  # fmt: skip
    assert [(one.type, one.name, one.capabilities, one.parent) for one in found.agents] == [
        ("tester", "a", ("x",), ""),
        ("tester", "", ("y",), "a"),
    ]
    assert bytes(found.agents[0].config) == b'{"any":[1]}'
    assert set(found.warnings) == {
        "/maxAgents was ignored: /config/maxAgents holds",
        "/config/zoom is unknown and was ignored",
        "/initialAgents/1/nickname is unknown and was ignored",
    }


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({}, "/topology"),
        ({"topology": "tree"}, "/topology"),
        ({"topology": 1}, "/topology"),
        ({"topology": "mesh", "maxAgents": 21}, "/maxAgents"),
        ({"topology": "mesh", "maxAgents": 0}, "/maxAgents"),
        ({"topology": "mesh", "config": {"maxAgents": "5"}}, "/config/maxAgents"),
        ({"topology": "mesh", "config": {"fanout": 0}}, "/config/fanout"),
        ({"topology": "mesh", "config": {"memoryTtl": -1}}, "/config/memoryTtl"),
        ({"topology": "mesh", "config": {"consensusThreshold": 70}}, "/config/consensusThreshold"),
        ({"topology": "mesh", "config": []}, "/config"),
        ({"topology": "mesh", "strategy": "specialized"}, "/strategy"),
        ({"topology": "mesh", "initialAgents": [{}]}, "/initialAgents/0/type"),
        ({"topology": "mesh", "initialAgents": ["tester"]}, "/initialAgents/0"),
        ({"topology": "mesh", "initialAgents": [{"type": "t"}] * 21}, "/initialAgents"),
        (
            {"topology": "mesh", "maxAgents": 1, "initialAgents": [{"type": "t"}] * 2},
            "/initialAgents",
        ),
        (
            {"topology": "mesh", "initialAgents": [{"type": "t", "config": 1}]},
            "/initialAgents/0/config",
        ),
        (
            {"topology": "star", "initialAgents": [{"type": "t", "parent": "a"}]},
            "/initialAgents/0/parent",
        ),
        (
            {"topology": "hierarchical", "initialAgents": [{"type": "t", "parent": "a"}]},
            "/initialAgents/0/parent",
        ),
        (
            {
                "topology": "hierarchical",
                "initialAgents": [{"type": "t", "name": "a", "parent": "a"}],
            },
            "/initialAgents/0/parent",
        ),
    ],
)
def test_a_wrong_swarm_is_refused_with_its_place(given: object, where: str) -> None:
    with pytest.raises(PlanError) as caught:
        init_of(body(given))
    assert caught.value.where == where
