"""How many outputs become one."""

import json
import time
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_coordinator.core.aggregate import Aggregated, AggregateError, Output, aggregate
from swarm_coordinator.core.spec import AGGREGATES, Aggregate, Coordination, Equality


def outputs(*values: str) -> list[Output]:
    return [
        Output(step=f"s{n}", value=msgspec.Raw(value.encode())) for n, value in enumerate(values)
    ]


def run(how: str, *values: str, **more: object) -> str:
    """``how`` = kind, then options ``pointer=/x`` or ``on_conflict=last``."""
    kind, *options = how.split()
    members = dict(option.split("=", 1) for option in options)
    result = aggregate(Aggregate(kind=kind, **members), outputs(*values), **more)  # type: ignore[arg-type]
    return bytes(result.value).decode()


SCORED = '{"score":1}'

CASES = [
    ("all", [], "[]"),
    ("all", ["1.10", '{"b":1,"a":2}', "null"], '[1.10,{"b":1,"a":2},null]'),
    ("all pointer=/n", ['{"n":123456789012345678901}', '{"n":[1.0]}'],
     "[123456789012345678901,[1.0]]"),
    ("concat", [], "[]"),
    ("concat", ["[1, 2.0]", "[]", '[{"a":1}]'], '[1,2.0,{"a":1}]'),
    ("concat", ['"a"', '"b\\n"', '""', '"\\u00e9"'], '"a\\nb\\né"'),
    ("concat pointer=/t", ['{"t":"a"}', '{"t":"b"}'], '"a\\nb"'),
    ("union", ["[1,2,2]", "[2.0,3]", "[]"], "[1,2,3]"),
    ("union", [], "[]"),
    ("intersection", ["[1,2,3,3]", "[3.0,2]", "[2,9,3]"], "[2,3]"),
    ("intersection", ["[1]", "[]"], "[]"),
    ("intersection", [], "[]"),
    ("intersection", ["[1,1]"], "[1]"),
    ("merge", [], "{}"),
    ("merge", ['{"a":1}', '{"b":2}'], '{"a":1,"b":2}'),
    ("merge", ['{"a":{"x":1,"y":{"z":[1]}}}', '{"a":{"y":{"w":9007199254740993},"x":1.0}}'],
     '{"a":{"x":1,"y":{"z":[1],"w":9007199254740993}}}'),
    ("merge on_conflict=first", ['{"a":[1],"b":{"c":1}}', '{"a":[2],"b":2}'],
     '{"a":[1],"b":{"c":1}}'),
    ("merge on_conflict=last", ['{"a":[1],"b":{"c":1}}', '{"a":[2],"b":2}'], '{"a":[2],"b":2}'),
    ("merge on_conflict=last", ['{"a":1}', '{"a":{"b":1}}', '{"a":{"c":2}}'],
     '{"a":{"b":1,"c":2}}'),
    ("sum", [], "0"),
    ("sum", ["1", "2"], "3"),
    ("sum", ["9007199254740993", "9007199254740993"], "18014398509481986"),
    ("sum", ["0.1", "0.2"], "0.3"),
    ("sum", ["0.5", "0.5"], "1.0"),
    ("sum", ["1", "0.5"], "1.5"),
    ("sum", ["1e16", "1", "-1e16"], "1.0"),
    ("sum pointer=/n", ['{"n":1}', '{"n":41}'], "42"),
    ("avg", ["1", "2", "3"], "2"),
    ("avg", ["1", "2"], "1.5"),
    ("avg", ["9007199254740993", "9007199254740995"], "9007199254740994"),
    ("avg", ["0.1", "0.2", "0.3"], "0.2"),
    ("min", ["3", "1.50", "2"], "1.50"),
    ("max", ["9007199254740992", "9007199254740993"], "9007199254740993"),
    ("max", ["1", "1.0"], "1"),
    ("min pointer=/a/0", ['{"a":[3]}', '{"a":[-1e2]}'], "-1e2"),
    ("median", ["5", "1.10", "0"], "1.10"),
    ("median", ["1", "9", "3", "5"], "4"),
    ("median", ["1", "2"], "1.5"),
    ("best pointer=/score", ['{"score":1,"x":1.10}', '{"score":2.5,"y":2}', '{"score":2.5}'],
     '{"score":2.5,"y":2}'),
    ("majority_vote", ['"a"', '"b"', '"a"'], '"a"'),
    ("majority_vote pointer=/v", ['{"v":1}', '{"v":1.0}', '{"v":2}'], "1"),
    ("majority_vote", ['"a"', '"b"'], ""),
    ("unanimous", ["1", "1.0"], "1"),
    ("unanimous", ["1", "2", "1"], ""),
]  # fmt: skip


@pytest.mark.parametrize(("how", "given_values", "wanted"), CASES)
def test_outputs_become_one(how: str, given_values: Sequence[str], wanted: str) -> None:
    assert run(how, *given_values) == wanted


def test_every_name_of_the_schema_is_a_function() -> None:
    for kind in AGGREGATES:
        pointer = "/score" if kind == "best" else ""
        made = {"union": "[]", "intersection": "[]", "concat": "[]", "merge": "{}", "best": SCORED}
        how = Aggregate(kind=kind, pointer=pointer)  # type: ignore[arg-type]
        result = aggregate(how, outputs(made.get(kind, "1")))
        assert bytes(result.value) or result.reduction
    assert len(AGGREGATES) == 16


FAULTS = [
    ("first_success", [], "no output"),
    ("avg", [], "no output"),
    ("min", [], "no output"),
    ("best pointer=/s", [], "no output"),
    ("majority_vote", [], "no output"),
    ("best", ['{"score":1}'], "pointer"),
    ("best pointer=/s", ['{"s":1}', '{"t":1}'], "s1: /s is not there"),
    ("all pointer=/x/y", ['{"x":{"y":1}}', '{"x":[]}'], "s1: /x/y is not there"),
    ("all pointer=x", ["{}"], "not a JSON pointer"),
    ("sum", ["1", "true"], "s1: not a number"),
    ("sum", ["1", '"2"'], "s1: not a number"),
    ("sum", ["1e999"], "s0: a number is too large"),
    ("sum", ["9" * 401], "s0: a number is too long"),
    ("sum", ["1.7e308", "1.7e308"], "a number is too large"),
    ("union", ["[1]", '{"a":1}'], "s1: not an array"),
    ("union", ["[1e999]"], "can be compared"),
    ("concat", ['"a"', "[1]"], "s1: not a string"),
    ("concat", ["[1]", '"a"'], "s1: not an array"),
    ("concat", ['"\\ud800"'], "s0: not a string"),
    ("merge", ['{"a":1}', "[1]"], "s1: not an object"),
    ("merge", ['{"a":{"b/c":1}}', '{"a":{"b/c":2}}'], "s1: /a/b~1c: two different values"),
    ("merge", ['{"a":[1]}', '{"a":[1,2]}'], "/a: two different values"),
    ("merge pointer=/m", ['{"m":{"a":1}}', '{"m":{"a":2}}'], "s1/m: /a: two different values"),
]


@pytest.mark.parametrize(("how", "given_values", "message"), FAULTS)
def test_outputs_that_do_not_fit_are_named(
    how: str, given_values: Sequence[str], message: str
) -> None:
    with pytest.raises(AggregateError, match=message):
        run(how, *given_values)


def test_the_first_success_is_the_one_that_came_first() -> None:
    some = [
        Output(step="a", value=msgspec.Raw(b"1"), order=9),
        Output(step="b", value=msgspec.Raw(b"2.0"), order=4),
        Output(step="c", value=msgspec.Raw(b"3"), order=7),
    ]
    assert bytes(aggregate(Aggregate(kind="first_success"), some).value) == b"2.0"


@pytest.mark.parametrize(
    ("equality", "union", "intersection"),
    [
        (Equality(kind="text"), '["Yes","no"]', '["Yes"]'),
        (Equality(), '["Yes","no"," yes "]', "[]"),
    ],
)
def test_sets_are_made_under_the_equality_asked_for(
    equality: Equality, union: str, intersection: str
) -> None:
    values = ('["Yes","no"]', '[" yes "]')
    assert run("union", *values, equality=equality) == union
    assert run("intersection", *values, equality=equality) == intersection


def test_sets_of_findings_are_made_by_their_keys() -> None:
    values = ('[{"f":"a","l":1,"by":"x"},{"f":"a","l":2}]', '[{"l":1.0,"f":"a","by":"y"}]')
    keyed = Equality(kind="items", keys=("f", "l"), pointer="/ignored")
    assert run("intersection", *values, equality=keyed) == '[{"f":"a","l":1,"by":"x"}]'
    near = Equality(kind="numeric", absolute=1, pointer="/n")
    found = run("union", '[{"n":1},{"n":2}]', '[{"n":3},{"n":7}]', equality=near)
    assert found == '[{"n":1},{"n":7}]'
    field = Equality(kind="pointer", pointer="/id")
    assert (
        run("union", '[{"id":1,"v":1}]', '[{"id":1,"v":2}]', equality=field) == '[{"id":1,"v":1}]'
    )


def test_a_weighted_vote_counts_the_weights_of_its_outputs() -> None:
    some = [
        Output(step="a", value=msgspec.Raw(b'"x"'), weight=7),
        Output(step="b", value=msgspec.Raw(b'"y"'), weight=3),
    ]
    result = aggregate(Aggregate(kind="weighted_vote"), some)
    assert bytes(result.value) == b'"x"'
    assert result.tally is not None
    assert result.tally.weights == {"a": 7.0, "b": 3.0}
    rules = Coordination(consensus_threshold=0.8)
    refused = aggregate(Aggregate(kind="weighted_vote"), some, rules=rules)
    assert refused.tally is not None
    assert (bytes(refused.value), refused.tally.reached, refused.tally.reason) == (
        b"",
        False,
        "share",
    )
    assert aggregate(Aggregate(kind="majority_vote"), some).tally.reason == "tie"  # type: ignore[union-attr]


def test_votes_of_outputs_know_their_equality_and_quorum() -> None:
    rules = Coordination(equality=Equality(kind="numeric", absolute=0.5))
    assert run("majority_vote", "1.0", "1.2", "9", rules=rules) == "1.0"
    assert (
        run("unanimous", "[1]", "[1]", rules=Coordination(equality=Equality(kind="set"))) == "[1]"
    )


@pytest.mark.parametrize(
    ("how", "kind", "agent", "payload"),
    [
        (
            Aggregate(kind="reduce", tool="fs__merge"),
            "tool",
            "",
            '{"tool":"fs__merge","arguments":{"outputs":[1.10,{"a":1}]}}',
        ),
        (
            Aggregate(kind="reduce", agent="editor"),
            "merge",
            "editor",
            '{"input":{"outputs":[1.10,{"a":1}]}}',
        ),
    ],
)
def test_a_reduction_is_a_step(how: Aggregate, kind: str, agent: str, payload: str) -> None:
    result = aggregate(how, outputs("1.10", '{"a":1}'))
    assert result == Aggregated(reduction=result.reduction)
    assert result.reduction is not None
    assert (result.reduction.kind, result.reduction.agent) == (kind, agent)
    assert bytes(result.reduction.payload).decode() == payload


def test_objects_that_are_nested_without_end_are_refused() -> None:
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    for how in ("merge", "union pointer=/a", "all pointer=/a"):
        with pytest.raises(AggregateError):
            run(how, deep, deep)


@pytest.mark.parametrize(
    "how",
    ["all", "concat pointer=/rows", "union pointer=/rows", "intersection pointer=/rows", "merge",
     "sum pointer=/n", "median pointer=/n", "best pointer=/n", "majority_vote pointer=/rows"],
)  # fmt: skip
def test_a_thousand_large_outputs_are_put_together_in_moments(how: str) -> None:
    rows = [f"row {n} {'x' * 110}" for n in range(90)]
    values = [
        json.dumps({"rows": rows, "n": n / 7, f"own{n}": {"k": n}, "shared": {"a": {"b": 1}}})
        for n in range(1_000)
    ]
    assert sum(map(len, values)) > 10_000_000
    if how == "merge":
        how = "merge on_conflict=last"
    began = time.process_time()
    assert run(how, *values)
    assert time.process_time() - began < 3.0


@given(st.lists(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3,
                                            min_value=-10**12, max_value=10**12),
                min_size=1, max_size=30), st.randoms(use_true_random=False))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_figures_do_not_depend_on_the_order(values: list[object], random: object) -> None:
    texts = [str(value) for value in values]
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for how in ("sum", "avg", "median", "min", "max"):
        one, other = run(how, *texts), run(how, *shuffled)
        assert float(one) == float(other)
        if all(isinstance(value, int) for value in values) and how in ("sum", "min", "max"):
            assert one == other
    if all(isinstance(value, int) for value in values):
        assert run("sum", *texts) == str(sum(values))  # type: ignore[arg-type]


values_of = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), values_of, max_size=4), max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_merge_that_takes_the_last_is_what_one_would_do_by_hand(
    objects: list[dict[str, object]],
) -> None:
    def by_hand(into: dict[str, object], one: dict[str, object]) -> dict[str, object]:
        for name, value in one.items():
            present = into.get(name)
            both = isinstance(present, dict) and isinstance(value, dict)
            same = type(present) is type(value) and present == value
            if name not in into or not both:
                into[name] = present if same and name in into else value
            else:
                into[name] = by_hand(dict(present), value)  # type: ignore[arg-type]
        return into

    wanted: dict[str, object] = {}
    for one in objects:
        wanted = by_hand(wanted, one)
    texts = [json.dumps(one) for one in objects]
    assert json.loads(run("merge on_conflict=last", *texts)) == wanted
