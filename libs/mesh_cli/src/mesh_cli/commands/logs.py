"""``mesh logs``: the logs of the services, each line prefixed with its instance."""

import time
from pathlib import Path
from typing import BinaryIO

import click

from mesh_cli import terminal
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import with_state
from mesh_cli.state import DIRECTORY, find

__all__ = ["command"]

_POLL_S = 0.2
_TAIL_BYTES = 256 * 1024


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("instances", nargs=-1)
@click.option("-n", "--lines", type=click.IntRange(0), default=20, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on until ctrl-C.")
@with_state
def command(instances: tuple[str, ...], lines: int, follow: bool, state: str | None) -> None:
    """Show the last lines of the logs of INSTANCES, or of all."""
    found = find(state)
    if found is None:
        raise Failure(f"no {DIRECTORY} directory here or above", code=Exit.UNREACHABLE)
    paths = [
        path for path in sorted(found.logs.glob("*.log")) if not instances or path.stem in instances
    ]
    if not paths:
        raise Failure(f"no logs in {found.logs}", code=Exit.FAILED)
    width = max(len(path.stem) for path in paths)
    places = {path: _show_tail(path, lines, width) for path in paths}
    while follow:
        time.sleep(_POLL_S)
        for path in paths:
            places[path] = _show_new(path, places[path], width)


def _show_tail(path: Path, lines: int, width: int) -> int:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        rows = file.read().decode(errors="replace").splitlines()
    for row in rows[len(rows) - min(lines, len(rows)) :]:
        terminal.line(f"{path.stem:<{width}} | {row}")
    return size


def _show_new(path: Path, place: int, width: int) -> int:
    try:
        with path.open("rb") as file:
            return _rows_from(file, place, path.stem, width)
    except OSError:
        return 0


def _rows_from(file: BinaryIO, place: int, name: str, width: int) -> int:
    size = file.seek(0, 2)
    place = place if place <= size else 0  # the log was moved aside
    file.seek(place)
    data = file.read(_TAIL_BYTES)
    whole = data[: data.rfind(b"\n") + 1]
    for row in whole.decode(errors="replace").splitlines():
        terminal.line(f"{name:<{width}} | {row}")
    return place + len(whole)
