"""Pictures of swarms and tasks: everything is in them, and names are only text."""

from itertools import pairwise
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_cli.swarms import mermaid, svg
from mesh_cli.swarms.reading import Agent, Links, Phase, Status, TaskStatus
from mesh_cli.swarms.shapes import layers_of, levels, on_circle

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '"]; click a0 "javascript:alert(1)" </text><script>x</script>\x1b[2J&'


def swarm(topology: str = "star", names: tuple[str, ...] = ("hub", "left", "right")) -> Status:
    agents = tuple(
        Agent(id=f"agent_{n}", type="reviewer", status="active", name=name)
        for n, name in enumerate(names)
    )
    spokes = tuple(one.id for one in agents[1:])
    adjacency = {"agent_0": spokes, **dict.fromkeys(spokes, ("agent_0",))}
    return Status(
        swarm_id="swarm_1",
        topology=topology,
        agents=agents,
        links=Links(count=4, adjacency=adjacency, messages={"agent_0>agent_1": 7}),
    )


def task() -> TaskStatus:
    return TaskStatus(
        task_id="task_1",
        status="running",
        created_at="2026-11-21T10:00:00.000Z",
        updated_at="2026-11-21T10:00:09.500Z",
        phases=(
            Phase(
                name="lint", status="done", done=4, total=4,
                started_at="2026-11-21T10:00:00.000Z", ended_at="2026-11-21T10:00:03.000Z",
            ),
            Phase(name="secrets", status="failed", done=1, failed=2, total=3),
            Phase(
                name="merge", status="running", dependencies=("lint", "secrets"), done=0,
                started_at="2026-11-21T10:00:03.500Z",
            ),
        ),
    )  # fmt: skip


def texts(drawn: str) -> list[str]:
    return [found.text or "" for found in ET.fromstring(drawn).iter(f"{SVG}text")]


def test_mermaid_of_a_swarm_has_each_link_once_with_its_messages() -> None:
    drawn = mermaid.topology(swarm())
    assert drawn.splitlines()[1] == "flowchart LR"
    assert 'a0["hub<br/>reviewer, active"]:::active' in drawn
    assert 'a0 <-->|"7 / 0"| a1' in drawn
    assert "a0 <--> a2" in drawn
    assert drawn.count("<-->") == 2
    assert "classDef active" in drawn


def test_mermaid_of_a_task_has_its_order_its_steps_and_its_times() -> None:
    drawn = mermaid.task(task())
    assert 'p0["lint<br/>done, 4/4<br/>3.0s"]:::done' in drawn
    assert 'p1["secrets<br/>failed, 1/3<br/>2 failed"]:::failed' in drawn
    assert 'p2["merge<br/>running, 0/?<br/>6.0s so far"]:::running' in drawn
    assert "p0 --> p2" in drawn
    assert "p1 --> p2" in drawn


@pytest.mark.parametrize("topology", ["mesh", "star", "hierarchical", "ring"])
def test_svg_of_a_swarm_is_a_document_with_every_agent_and_link(topology: str) -> None:
    drawn = svg.topology(swarm(topology))
    shown = texts(drawn)
    assert {"hub", "left", "right", "7 / 0"} <= set(shown)
    assert len(list(ET.fromstring(drawn).iter(f"{SVG}line"))) == 2


def test_svg_of_a_task_puts_later_phases_further_right() -> None:
    root = ET.fromstring(svg.task(task()))
    boxes = [float(one.get("x", "0")) for one in root.iter(f"{SVG}rect")][1:]
    assert boxes[0] == boxes[1] < boxes[2]
    assert {"done, 4/4", "3.0s", "6.0s so far", "failed, 1/3, 2 failed"} <= set(
        texts(svg.task(task()))
    )


def test_empty_swarm_and_task_have_pictures_too() -> None:
    empty = Status(swarm_id="s")
    assert ET.fromstring(svg.topology(empty)).tag == f"{SVG}svg"
    assert ET.fromstring(svg.task(TaskStatus(task_id="t"))).tag == f"{SVG}svg"
    assert "flowchart" in mermaid.topology(empty)
    assert "flowchart" in mermaid.task(TaskStatus(task_id="t"))


def test_hostile_names_are_text_in_every_picture() -> None:
    named = swarm(names=(HOSTILE, "b", "c"))
    named = msgspec.structs.replace(named, name=HOSTILE)
    drawn = svg.topology(named)
    assert "<script" not in drawn
    assert "\x1b" not in drawn
    ET.fromstring(drawn)
    chart = mermaid.topology(named)
    assert "\x1b" not in chart
    assert all(word not in chart for word in ('"]; click', "<script", "</text>"))
    phase = Phase(name=HOSTILE, status='x"]', dependencies=(HOSTILE,))
    chart = mermaid.task(TaskStatus(task_id=HOSTILE, phases=(phase,)))
    assert '"];' not in chart
    ET.fromstring(svg.task(TaskStatus(task_id=HOSTILE, phases=(phase,))))


@given(st.text(max_size=60))
def test_any_name_gives_a_readable_document(name: str) -> None:
    ET.fromstring(svg.topology(swarm(names=(name, "b"))))
    assert len(mermaid.topology(swarm(names=(name, "b"))).splitlines()) == 6


def test_nodes_on_a_circle_keep_their_distance() -> None:
    places = on_circle([str(n) for n in range(20)], 500)
    gaps = [
        abs(complex(*places[str(a)]) - complex(*places[str(b)])) for a, b in pairwise(range(20))
    ]
    assert max(gaps) - min(gaps) < 1e-6
    assert min(gaps) > 150


def test_layers_follow_the_links_from_the_root() -> None:
    adjacency = {"a": ["b", "c"], "b": ["a", "d"], "d": ["b"]}
    assert layers_of("a", ["a", "b", "c", "d", "e"], adjacency) == [["a"], ["b", "c"], ["d"], ["e"]]


def test_levels_of_a_graph_end_even_on_a_cycle() -> None:
    assert levels({"a": [], "b": ["a"], "c": ["a", "b"], "d": ["gone"]}) == {
        "a": 0, "b": 1, "c": 2, "d": 0,
    }  # fmt: skip
    assert levels({"a": ["b"], "b": ["a"]})
