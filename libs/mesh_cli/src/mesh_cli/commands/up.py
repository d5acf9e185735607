"""``mesh up``: a whole mesh in the foreground, from one command."""

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from mesh_cli import ports
from mesh_cli.config_check.checking import read_again
from mesh_cli.launch import Options, run
from mesh_cli.options import with_state
from mesh_cli.state import DIRECTORY
from mesh_cli.user_file import read

__all__ = ["command"]

_COUNT = click.IntRange(1, 16)
_PORT = click.IntRange(0, 65535)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="FILE", help="User file (default: mesh.toml, when there is one).")
@click.option("--gateways", type=_COUNT, default=1, show_default=True, help="Gateways to run.")
@click.option("--runners", type=_COUNT, default=1, show_default=True, help="Tool-runners to run.")
@click.option("--http-port", type=_PORT, help="HTTP port (default 3000 or the next free one).")
@click.option("--tcp-port", type=_PORT, help="TCP port (default 9500 or the next free one).")
@click.option("--nats-port", type=_PORT, help="NATS port (default 4222 or the next free one).")
@click.option("--no-sample", is_flag=True, help="Do not run the sample server.")
@click.option("--watch", is_flag=True, help="Reload whenever the user file changes.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the status as one JSON line.")
@with_state
def command(config: str | None, state: str | None, **given: Any) -> int:
    """Start a mesh and keep it running until ctrl-C.

    Prints the line "ready" once a first call will succeed. A port given as 0 means any free one.
    """
    user = read(config, os.environ)
    options = Options(
        state=Path(state or DIRECTORY).absolute(),
        gateways=given["gateways"],
        runners=given["runners"],
        http_port=_port(given["http_port"]),
        tcp_port=_port(given["tcp_port"]),
        nats_port=_port(given["nats_port"]),
        sample=not given["no_sample"],
        as_json=given["as_json"],
        watch=given["watch"],
    )
    folder = Path.cwd()
    return asyncio.run(run(user, options, lambda: read_again(config, os.environ, folder)))


def _port(given: int | None) -> int:
    return ports.USUAL if given is None else given
