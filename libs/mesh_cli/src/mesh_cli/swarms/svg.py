"""Swarms and tasks as SVG files that stand alone: no script, no font, no link to anywhere."""

import math
from collections.abc import Iterable
from xml.sax.saxutils import escape

import msgspec

from mesh_cli.swarms.reading import Phase, Status, TaskStatus, seconds_between
from mesh_cli.swarms.shapes import Point, in_layers, layers_of, levels, on_circle
from mesh_cli.terminal import duration, plain

__all__ = ["task", "topology"]

WIDE, HIGH = 150.0, 52.0
"""Size of a box."""
MARGIN = 24.0
_LINE = 15.0
_CHARS = 22
_COLOURS = {
    "busy": ("#fff3bf", "#e8a400"),
    "running": ("#fff3bf", "#e8a400"),
    "active": ("#d3f9d8", "#2b8a3e"),
    "done": ("#d3f9d8", "#2b8a3e"),
    "completed": ("#d3f9d8", "#2b8a3e"),
    "spawning": ("#e7f5ff", "#1971c2"),
    "lost": ("#ffe3e3", "#c92a2a"),
    "failed": ("#ffe3e3", "#c92a2a"),
}
_GREY = ("#f1f3f5", "#868e96")


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A node: where it stands (its middle), its lines of text, its state."""

    at: Point
    lines: tuple[str, ...]
    status: str


class Arrow(msgspec.Struct, frozen=True, kw_only=True):
    """A line from box to box; ``both`` = an end at either side."""

    begin: Point
    end: Point
    label: str = ""
    both: bool = False


def topology(status: Status) -> str:
    """Who may send to whom, with the messages of each link."""
    places = _places(status)
    boxes = [
        Box(
            at=places[agent.id],
            lines=(agent.label, f"{agent.type}, {agent.status}", agent.current_task or ""),
            status=agent.status,
        )
        for agent in status.agents
    ]
    title = f"{status.name or status.swarm_id}: {status.topology}, {status.links.count} links"
    return _document(title, boxes, _links(status, places))


def task(status: TaskStatus) -> str:
    """The phases of a task from left to right, with what each took."""
    level = levels({phase.name: phase.dependencies for phase in status.phases})
    columns: dict[int, list[str]] = {}
    for phase in status.phases:
        columns.setdefault(level[phase.name], []).append(phase.name)
    order = [columns[column] for column in sorted(columns)]
    places = {
        name: (y, x)
        for name, (x, y) in in_layers(order, across=HIGH * 1.6, down=WIDE * 1.4).items()
    }
    boxes = [
        Box(at=places[phase.name], lines=_lines(phase, status.updated_at), status=phase.status)
        for phase in status.phases
    ]
    arrows = [
        Arrow(begin=places[before], end=places[phase.name])
        for phase in status.phases
        for before in phase.dependencies
        if before in places
    ]
    took = seconds_between(status.created_at, status.updated_at)
    title = f"{status.task_id}: {status.status}" + (f", {duration(took)}" if took else "")
    return _document(title, boxes, arrows)


def _places(status: Status) -> dict[str, Point]:
    nodes = [agent.id for agent in status.agents]
    radius = max(160.0, len(nodes) * WIDE * 1.3 / (2 * math.pi))
    if not nodes:
        return {}
    match status.topology:
        case "star":
            most = max(nodes, key=lambda node: len(status.links.adjacency.get(node, ())))
            return on_circle(nodes, radius, center=most)
        case "hierarchical":
            layers = layers_of(nodes[0], nodes, status.links.adjacency)
            return in_layers(layers, across=WIDE * 1.2, down=HIGH * 2)
        case _:
            return on_circle(nodes, radius)


def _links(status: Status, places: dict[str, Point]) -> list[Arrow]:
    drawn: dict[tuple[str, str], Arrow] = {}
    for sender, others in status.links.adjacency.items():
        for other in others:
            if sender not in places or other not in places or (other, sender) in drawn:
                continue
            both = sender in status.links.adjacency.get(other, ())
            sent = [status.links.messages.get(f"{sender}>{other}", 0)]
            if both:
                sent.append(status.links.messages.get(f"{other}>{sender}", 0))
            label = " / ".join(map(str, sent)) if any(sent) else ""
            drawn[sender, other] = Arrow(
                begin=places[sender], end=places[other], label=label, both=both
            )
    return list(drawn.values())


def _lines(phase: Phase, now: str) -> tuple[str, ...]:
    total = "?" if phase.total is None else phase.total
    steps = f"{phase.status}, {phase.done}/{total}"
    if phase.failed:
        steps += f", {phase.failed} failed"
    took = seconds_between(phase.started_at, phase.ended_at or now)
    if took is None:
        return phase.name, steps, ""
    return phase.name, steps, duration(took) + ("" if phase.ended_at else " so far")


def _document(title: str, boxes: list[Box], arrows: list[Arrow]) -> str:
    left = min((box.at[0] for box in boxes), default=0.0) - WIDE / 2 - MARGIN
    right = max((box.at[0] for box in boxes), default=0.0) + WIDE / 2 + MARGIN
    top = min((box.at[1] for box in boxes), default=0.0) - HIGH / 2 - MARGIN - _LINE * 2
    bottom = max((box.at[1] for box in boxes), default=0.0) + HIGH / 2 + MARGIN
    wide, high = max(320.0, right - left), bottom - top
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.1f} {top:.1f} {wide:.1f} '
            f'{high:.1f}" width="{wide:.0f}" height="{high:.0f}" font-family="sans-serif" '
            'font-size="12">'
        ),
        f"<title>{_said(title, 200)}</title>",
        (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="#495057"/>'
            "</marker></defs>"
        ),
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="#fff"/>',
        _words(left + MARGIN, top + MARGIN, title, chars=120, anchor="start", bold=True),
        *(_drawn(arrow) for arrow in arrows),
        *(part for box in boxes for part in _boxed(box)),
        "</svg>",
    ]
    return "\n".join(parts)


def _boxed(box: Box) -> Iterable[str]:
    x, y = box.at
    fill, stroke = _COLOURS.get(box.status, _GREY)
    yield (
        f'<rect x="{x - WIDE / 2:.1f}" y="{y - HIGH / 2:.1f}" width="{WIDE:.0f}" '
        f'height="{HIGH:.0f}" rx="6" fill="{fill}" stroke="{stroke}"/>'
    )
    for index, line in enumerate(box.lines):
        if line:
            yield _words(x, y - _LINE + 4 + index * _LINE, line, bold=index == 0)


def _drawn(arrow: Arrow) -> str:
    begin, end = _edge(arrow.begin, arrow.end), _edge(arrow.end, arrow.begin)
    back = ' marker-start="url(#tip)"' if arrow.both else ""
    line = (
        f'<line x1="{begin[0]:.1f}" y1="{begin[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
        f'stroke="#495057" marker-end="url(#tip)"{back}/>'
    )
    if not arrow.label:
        return line
    # A third of the way, because the middles of a full mesh lie upon each other.
    x = begin[0] + (end[0] - begin[0]) / 3
    y = begin[1] + (end[1] - begin[1]) / 3
    return line + _words(x, y - 3, arrow.label)


def _edge(inside: Point, towards: Point) -> Point:
    """Where the line to ``towards`` leaves the box around ``inside``."""
    dx, dy = towards[0] - inside[0], towards[1] - inside[1]
    if not dx and not dy:
        return inside
    share = min(
        WIDE / 2 / abs(dx) if dx else math.inf,
        HIGH / 2 / abs(dy) if dy else math.inf,
        1.0,
    )
    return inside[0] + dx * share, inside[1] + dy * share


def _words(
    x: float,
    y: float,
    text: str,
    *,
    chars: int = _CHARS,
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{_said(text, chars)}</text>'
    )


def _said(text: str, chars: int) -> str:
    """Text of others: shortened, without control characters, escaped."""
    shown = plain(text)
    return escape(shown if len(shown) <= chars else f"{shown[: chars - 1]}…")
