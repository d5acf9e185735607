"""One picture of a swarm for the terminal: agents, tasks, links, rates.

Drawn with rich: it renders the same frame to a terminal, a pipe and a test, brings no event loop
of its own as textual does, and handles width, resizing and ``NO_COLOR``, which curses leaves to us.
"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mesh_cli.swarms.reading import Agent, Status, Tasks, seconds_between
from mesh_cli.terminal import duration, plain

__all__ = ["Sample", "frame", "rates"]

LINKS_SHOWN = 10
_STYLES = {
    "active": "green",
    "busy": "yellow",
    "spawning": "blue",
    "draining": "dim",
    "lost": "bold red",
    "running": "yellow",
    "waiting": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
}

Sample = tuple[float, Status]
"""Monotonic seconds, and what was told then."""


def rates(before: Sample | None, now: Sample) -> dict[str, float]:
    """Per second between two samples: steps done by agents, tasks completed, messages, log writes.

    Empty without an earlier sample: nothing is known of a rate yet.
    """
    if before is None or now[0] <= before[0]:
        return {}
    span = now[0] - before[0]
    old, new = before[1], now[1]

    def rate(first: int, second: int) -> float:
        return max(0, second - first) / span

    return {
        "steps": rate(_steps(old), _steps(new)),
        "tasks": rate(old.metrics.tasks_completed, new.metrics.tasks_completed),
        "messages": rate(old.messages, new.messages),
        "log": rate(old.sequence, new.sequence),
    }


def frame(before: Sample | None, now: Sample, tasks: Tasks) -> RenderableType:
    """The whole view.

    Args:
        before: an earlier sample; None = there is none.
        now: the newest.
        tasks: the newest tasks.
    """
    status = now[1]
    parts: list[RenderableType] = [_head(status, rates(before, now)), Text(), _agents(status)]
    if tasks.tasks:
        parts += [Text(), _tasks(tasks)]
    if status.messages:
        parts += [Text(), _links(status, before[1] if before is not None else None)]
    return Group(*parts)


def _steps(status: Status) -> int:
    return sum((one.stats.completed or 0) + (one.stats.failed or 0) for one in status.agents)


def _head(status: Status, rate: dict[str, float]) -> Text:
    metrics = status.metrics
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(plain(status.name or status.swarm_id), style="bold")
    head.append(f"  {status.topology}  {status.status}  owner {status.owner or '-'}\n")
    share = "-" if metrics.success_rate is None else f"{metrics.success_rate:.0%}"
    mean = metrics.avg_completion_time
    head.append(
        f"agents {len(status.agents)}  running {metrics.in_flight}  queued {metrics.queued}  "
        f"tasks done {metrics.tasks_completed}  success {share}  "
        f"mean {'-' if mean is None else duration(mean)}\n"
    )
    told = "  ".join(f"{name} {value:.1f}/s" for name, value in rate.items())
    head.append(told or "rates after the next look", style="dim")
    return head


def _agents(status: Status) -> Table:
    table = _table("AGENT", "TYPE", "STATE", "HEALTH", "LOAD", "DONE", "FAILED", "TASK")
    for agent in status.agents:
        _row(
            table,
            agent.label,
            agent.type,
            Text(agent.status, style=_STYLES.get(agent.status, "")),
            "-" if agent.health is None else f"{agent.health:.0f}",
            _load(agent),
            _figure(agent.stats.completed),
            _figure(agent.stats.failed),
            agent.current_task or "",
        )
    return table


def _tasks(tasks: Tasks) -> Table:
    table = _table("TASK", "STATE", "STEPS", "TIME", "PRIORITY", "WHAT", "NOW")
    for task in tasks.tasks:
        took = seconds_between(task.created_at, task.updated_at)
        _row(
            table,
            task.task_id,
            Text(task.status, style=_STYLES.get(task.status, "")),
            str(task.progress),
            "" if took is None else duration(took),
            task.priority,
            task.description,
            task.doing,
        )
    return table


def _links(status: Status, before: Status | None) -> Table:
    names = {agent.id: agent.label for agent in status.agents}
    table = _table("FROM", "TO", "MESSAGES", "NEW")
    busiest = sorted(status.links.messages.items(), key=lambda one: (-one[1], one[0]))
    for link, sent in busiest[:LINKS_SHOWN]:
        sender, _, receiver = link.partition(">")
        earlier = before.links.messages.get(link, 0) if before is not None else sent
        new = sent - earlier
        _row(
            table,
            names.get(sender, sender),
            names.get(receiver, receiver),
            str(sent),
            f"+{new}" if new > 0 else "",
        )
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for head in heads:
        table.add_column(head, no_wrap=True, overflow="ellipsis")
    return table


def _row(table: Table, *cells: str | Text) -> None:
    # As text: rich would read brackets in a name as its markup.
    table.add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in cells))


def _load(agent: Agent) -> str:
    if agent.load is None:
        return "-"
    return str(agent.load) if agent.slots is None else f"{agent.load}/{agent.slots}"


def _figure(value: int | None) -> str:
    return "-" if value is None else str(value)
