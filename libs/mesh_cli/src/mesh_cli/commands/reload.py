"""``mesh reload``: have a running mesh take the changed ``mesh.toml`` over."""

import click

from mesh_cli import terminal
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import DURATION, with_state
from mesh_cli.reload_requests import ask
from mesh_cli.state import require

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--wait", "wait_s", type=DURATION, default="120s", help="Longest wait.")
@with_state
def command(wait_s: float, state: str | None) -> int:
    """Have the mesh of this directory take its changed mesh.toml over.

    All of the file is taken over, or nothing. Exit codes: 0 it was, 78 the file is wrong or
    changes what needs a restart, 3 no mesh runs here.
    """
    found, _ = require(state)
    answer = ask(found, wait_s=wait_s)
    if answer.code != Exit.OK:
        raise Failure(answer.text, mend=answer.mend, code=Exit(answer.code))
    terminal.line(answer.text)
    return Exit.OK
