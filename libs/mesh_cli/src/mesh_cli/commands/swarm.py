"""``mesh swarm``: swarms as they are, in lists, in a live view and in pictures."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mesh_cli import terminal
from mesh_cli.failure import Failure
from mesh_cli.options import connection_options
from mesh_cli.session import Caller, Request, caller
from mesh_cli.swarms import mermaid, svg
from mesh_cli.swarms.reading import (
    Status,
    Tasks,
    read_status,
    read_swarms,
    read_task,
    read_tasks,
)

__all__ = ["command"]

_HELP = {"help_option_names": ["-h", "--help"]}
_TASKS_SHOWN = 12

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _asking(function: F) -> F:
    for option in (
        click.option("--url", metavar="URL", help="Ask this HTTP edge instead of the bus."),
        click.option("--token", envvar="MCP_AUTH_TOKEN", default="", help="Credential for --url."),
        click.option("--tenant", default="", help="Tenant to ask as (bus only)."),
    ):
        function = option(function)
    return connection_options(function)


@click.group(context_settings=_HELP)
def command() -> None:
    """Swarms of agents: list, status, a live view, pictures.

    SWARM is an id of `mesh swarm list`; left out, it is your default swarm.
    """


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Destroyed swarms too.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@_asking
def list_swarms(everything: bool, as_json: bool, **given: Any) -> None:
    """List your swarms, newest first; * marks the default one."""
    found = _run(caller(given), lambda request: read_swarms(request, destroyed=everything))
    if as_json:
        terminal.line(terminal.pretty(found))
        return
    rows = [
        (
            f"{one.swarm_id}{' *' if one.default else ''}",
            terminal.plain(one.name),
            one.topology,
            one.status,
            str(one.agent_count),
            str(one.open_tasks),
            one.owner or "-",
            one.created_at,
        )
        for one in found.swarms
    ]
    heads = ("SWARM", "NAME", "TOPOLOGY", "STATE", "AGENTS", "OPEN TASKS", "OWNER", "CREATED")
    terminal.line(terminal.table(heads, rows))


@command.command("status")
@click.argument("swarm", required=False, default="")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@_asking
def status(swarm: str, as_json: bool, **given: Any) -> None:
    """Show agents, tasks and links of SWARM."""
    found, tasks = _run(caller(given), lambda request: _both(request, swarm))
    if as_json:
        terminal.line(terminal.pretty({"swarm": found, "tasks": tasks.tasks}))
        return
    _print(found, tasks)


@command.command("top")
@click.argument("swarm", required=False, default="")
@click.option("--every", type=click.FloatRange(0.2, 60), default=1.0, show_default=True,
              help="Seconds between two looks.")  # fmt: skip
@_asking
def top(swarm: str, every: float, **given: Any) -> None:
    """Watch SWARM live until ctrl-C: agents, tasks, links, rates.

    Where the output is no terminal it prints one picture.
    """
    asyncio.run(_watch(caller(given), swarm, every))


@command.command("picture")
@click.argument("swarm", required=False, default="")
@click.option("--task", metavar="TASK", help="The phases of this task instead of the agents.")
@click.option("--format", "kind", type=click.Choice(["mermaid", "svg"]), help="How to draw it.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File.")
@_asking
def picture(
    swarm: str, task: str | None, kind: str | None, output: Path | None, **given: Any
) -> None:
    """Draw the topology of SWARM, or the phases of one of its tasks with their times.

    Mermaid unless the file ends in .svg.
    """
    who = caller(given)
    kind = kind or ("svg" if output is not None and output.suffix == ".svg" else "mermaid")
    if task is not None:
        phases = _run(who, lambda request: read_task(request, swarm, task))
        drawn = svg.task(phases) if kind == "svg" else mermaid.task(phases)
    else:
        found = _run(who, lambda request: read_status(request, swarm))
        drawn = svg.topology(found) if kind == "svg" else mermaid.topology(found)
    if output is None:
        terminal.line(drawn)
        return
    try:
        output.write_text(f"{drawn}\n")
    except OSError as error:
        raise Failure(f"{output}: {error.strerror}") from None
    terminal.note(f"wrote {output}")


def _run(who: Caller, work: Callable[[Request], Awaitable[T]]) -> T:
    async def run() -> T:
        async with who.open() as request:
            return await work(request)

    return asyncio.run(run())


async def _both(request: Request, swarm: str) -> tuple[Status, Tasks]:
    found = await read_status(request, swarm)
    return found, await read_tasks(request, found.swarm_id, limit=_TASKS_SHOWN)


def _print(found: Status, tasks: Tasks) -> None:
    # Imported where it is drawn: the other commands start faster without.
    from rich.console import Console  # noqa: PLC0415

    from mesh_cli.swarms.screen import frame  # noqa: PLC0415

    wide = None if sys.stdout.isatty() else 160
    console = Console(file=sys.stdout, width=wide, highlight=False, soft_wrap=False)
    console.print(frame(None, (time.monotonic(), found), tasks))


async def _watch(who: Caller, swarm: str, every: float) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from mesh_cli.swarms.screen import Sample, frame  # noqa: PLC0415

    async with who.open() as request:
        found, tasks = await _both(request, swarm)
        if not sys.stdout.isatty():
            _print(found, tasks)
            return
        before: Sample | None = None
        now = (time.monotonic(), found)
        console = Console(highlight=False)
        with Live(
            frame(None, now, tasks), console=console, screen=True, auto_refresh=False
        ) as live:
            while True:
                await asyncio.sleep(every)
                # By its id: what the default swarm is may change meanwhile.
                found, tasks = await _both(request, found.swarm_id)
                before, now = now, (time.monotonic(), found)
                live.update(frame(before, now, tasks), refresh=True)
