import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_coordinator.core.graph import CycleError, ancestors, ordered

GRAPHS = st.integers(1, 12).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, n - 1), max_size=4).map(lambda needs: [f"n{i}" for i in needs]),
        min_size=n,
        max_size=n,
    ).map(lambda rows: {f"n{i}": row for i, row in enumerate(rows)})
)


def reachable(needs: dict[str, list[str]], name: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(needs[name])
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += needs[one]
    return reached


@given(GRAPHS)
def test_an_order_holds_or_a_real_cycle_is_named(needs: dict[str, list[str]]) -> None:
    if any(name in reachable(needs, name) for name in needs):
        with pytest.raises(CycleError) as caught:
            ordered(needs)
        cycle, behind = caught.value.cycle, caught.value.behind
        assert cycle[0] == cycle[-1]
        assert all(b in needs[a] for a, b in itertools.pairwise(cycle))
        assert all(name not in reachable(needs, name) for name in behind)
        return
    order = ordered(needs)
    assert sorted(order) == sorted(needs)
    place = {name: i for i, name in enumerate(order)}
    assert all(place[one] < place[name] for name, before in needs.items() for one in before)
    assert ancestors(needs, order) == {name: reachable(needs, name) for name in needs}


def test_an_order_keeps_the_given_one_where_it_can() -> None:
    assert ordered({"c": [], "b": ["a"], "a": [], "d": []}) == ("c", "a", "b", "d")


@pytest.mark.parametrize(
    ("needs", "cycle", "behind"),
    [
        ({"a": ["a"]}, ("a", "a"), ()),
        ({"a": ["b"], "b": ["a"], "c": ["a"]}, ("a", "b", "a"), ("c",)),
        ({"z": ["x"], "x": ["y"], "y": ["x"], "q": ["z"]}, ("x", "y", "x"), ("z", "q")),
    ],
)
def test_a_cycle_is_named_and_what_would_never_be_reached(
    needs: dict[str, list[str]], cycle: tuple[str, ...], behind: tuple[str, ...]
) -> None:
    with pytest.raises(CycleError) as caught:
        ordered(needs)
    assert (caught.value.cycle, caught.value.behind) == (cycle, behind)


def test_a_long_chain_needs_no_recursion() -> None:
    needs = {f"n{i}": [f"n{i - 1}"] if i else [] for i in range(5_000)}
    assert ordered(needs)[-1] == "n4999"
