"""``mesh status``: what runs where."""

from pathlib import Path

import click

from mesh_cli import terminal
from mesh_cli.options import with_state
from mesh_cli.state import require

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@with_state
def command(as_json: bool, state: str | None) -> None:
    """Show the processes, ports and mode of the mesh of this directory."""
    found, record = require(state)
    if as_json:
        terminal.line(terminal.pretty(record))
        return
    rows = [
        (
            point.instance,
            point.service,
            str(point.pid),
            "runs" if Path(f"/proc/{point.pid}").exists() else "is starting again",
            "  ".join(part for part in (point.http, point.tcp) if part),
        )
        for point in record.endpoints
    ]
    terminal.line(terminal.table(("PROCESS", "SERVICE", "PID", "STATE", "LISTENS ON"), rows))
    terminal.line()
    terminal.line(f"broker {record.nats}, state {found.root}, {_mode(record.ready)}")
    if record.development:
        terminal.line(f"development mode: no token needed on this machine (tenant {record.tenant})")


def _mode(ready: bool) -> str:
    return "ready" if ready else "not ready yet"
