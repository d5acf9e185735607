"""``mesh down``: ask the ``mesh up`` of a state directory to drain, and wait for it."""

import os
import signal
import time

import click

from mesh_cli import terminal
from mesh_cli.children import DRAIN_MAX_S
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import DURATION, with_state
from mesh_cli.state import find

__all__ = ["command"]

_POLL_S = 0.05
_STAGES = 4
"""Gateways, runners, services, broker: each may take the whole drain time."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--wait", "wait_s", type=DURATION, default=f"{DRAIN_MAX_S * _STAGES:.0f}s")
@click.option("--force", is_flag=True, help="End everything at once instead of draining.")
@with_state
def command(wait_s: float, force: bool, state: str | None) -> None:
    """Stop the mesh of this directory. Stopping what does not run is no failure."""
    found = find(state)
    pid = found.holder() if found is not None else 0
    if found is None or pid <= 0:
        terminal.line("no mesh runs here")
        return
    os.kill(pid, signal.SIGTERM)
    if force:
        time.sleep(_POLL_S)
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + wait_s
    while found.holder():
        if time.monotonic() > until:
            raise Failure(
                f"mesh up (pid {pid}) still drains", mend="mesh down --force", code=Exit.FAILED
            )
        time.sleep(_POLL_S)
    terminal.line("stopped")
