"""Classes of findings, their lines, and the coordinator's copy of who knows what."""

import msgspec

from mesh_agents.types.findings import classes, electorate, lines_of
from swarm_coordinator.core import rule_classes

TOOLS = (*rule_classes.LINTERS, *rule_classes.SCANNERS)

SOURCE = """\
from a import (
    b,
    c,
)


@decorated(
    x,
)
def f(
    a,
    b=[],
):
    return (
        a +
        b
    )


try:
    pass
except (
    ValueError
):
    pass
"""


def test_coordinator_and_agents_agree_on_who_knows_which_class() -> None:
    theirs = msgspec.json.decode(bytes(rule_classes.electorate()), type=dict[str, list[str]])
    ours = electorate(TOOLS)
    assert {name: sorted(tools) for name, tools in theirs.items()} == {
        name: sorted(tools) for name, tools in ours.items()
    }


def test_rule_is_of_one_class_only() -> None:
    for tool in TOOLS:
        table = electorate([tool])
        assert set(table) == set(classes(tool).values())


def test_lines_of_a_statement_are_its_first_and_bodies_are_their_own() -> None:
    lines = lines_of(SOURCE)
    assert {lines.get(number, number) for number in (1, 2, 3, 4)} == {1}
    assert {lines.get(number, number) for number in (10, 11, 12)} == {10}
    assert {lines.get(number, number) for number in (14, 15, 16, 17)} == {14}
    assert {lines.get(number, number) for number in (22, 23, 24)} == {22}
    assert lines.get(25, 25) == 25
    assert lines_of("def f(:") == {}
