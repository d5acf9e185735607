"""Swarms and tasks as Mermaid flow charts, for readmes and notes.

Names come from whoever made the swarm: they are text in the picture and nothing else.
"""

import re

from mesh_cli.swarms.reading import Status, TaskStatus, seconds_between
from mesh_cli.terminal import duration

__all__ = ["task", "topology"]

_PLAIN = re.compile(r"[^A-Za-z0-9 .,:/_-]")
_NAME_CHARS = 48
_COLOURS = {
    "busy": "fill:#fff3bf,stroke:#e8a400",
    "active": "fill:#d3f9d8,stroke:#2b8a3e",
    "spawning": "fill:#e7f5ff,stroke:#1971c2",
    "draining": "fill:#f1f3f5,stroke:#868e96",
    "lost": "fill:#ffe3e3,stroke:#c92a2a",
    "running": "fill:#fff3bf,stroke:#e8a400",
    "done": "fill:#d3f9d8,stroke:#2b8a3e",
    "completed": "fill:#d3f9d8,stroke:#2b8a3e",
    "failed": "fill:#ffe3e3,stroke:#c92a2a",
    "skipped": "fill:#f1f3f5,stroke:#868e96",
    "cancelled": "fill:#f1f3f5,stroke:#868e96",
}


def topology(status: Status) -> str:
    """Who may send to whom, with the messages of each link."""
    index = {agent.id: f"a{number}" for number, agent in enumerate(status.agents)}
    rows = [f"%% swarm {_text(status.swarm_id)}, {_text(status.topology)}", "flowchart LR"]
    for agent in status.agents:
        words = f"{_text(agent.label)}<br/>{_text(agent.type)}, {_text(agent.status)}"
        rows.append(f'  {index[agent.id]}["{words}"]{_class(agent.status)}')
    drawn: set[tuple[str, str]] = set()
    for sender, others in status.links.adjacency.items():
        for other in others:
            if sender not in index or other not in index or (other, sender) in drawn:
                continue
            drawn.add((sender, other))
            both = sender in status.links.adjacency.get(other, ())
            sent = [status.links.messages.get(f"{sender}>{other}", 0)]
            if both:
                sent.append(status.links.messages.get(f"{other}>{sender}", 0))
            arrow = "<-->" if both else "-->"
            label = f'|"{" / ".join(map(str, sent))}"|' if any(sent) else ""
            rows.append(f"  {index[sender]} {arrow}{label} {index[other]}")
    return "\n".join([*rows, *_classes({agent.status for agent in status.agents})])


def task(status: TaskStatus) -> str:
    """The phases of a task in their order, with what each took."""
    index = {phase.name: f"p{number}" for number, phase in enumerate(status.phases)}
    rows = [f"%% task {_text(status.task_id)}, {_text(status.status)}", "flowchart LR"]
    for phase in status.phases:
        total = "?" if phase.total is None else phase.total
        took = seconds_between(phase.started_at, phase.ended_at or status.updated_at)
        parts = [_text(phase.name), f"{_text(phase.status)}, {phase.done}/{total}"]
        if phase.failed:
            parts.append(f"{phase.failed} failed")
        if took is not None:
            parts.append(duration(took) + ("" if phase.ended_at else " so far"))
        rows.append(f'  {index[phase.name]}["{"<br/>".join(parts)}"]{_class(phase.status)}')
    rows += [
        f"  {index[before]} --> {index[phase.name]}"
        for phase in status.phases
        for before in phase.dependencies
        if before in index
    ]
    return "\n".join([*rows, *_classes({phase.status for phase in status.phases})])


def _text(text: str) -> str:
    shown = text if len(text) <= _NAME_CHARS else f"{text[: _NAME_CHARS - 1]}…"
    return _PLAIN.sub(lambda found: f"#{ord(found[0])};", shown)


def _class(status: str) -> str:
    return f":::{status}" if status in _COLOURS else ""


def _classes(used: set[str]) -> list[str]:
    return [f"  classDef {name} {_COLOURS[name]}" for name in sorted(used & _COLOURS.keys())]
