"""``mesh config``: check a user's file without starting anything; the schema for editors."""

import os

import click

from mesh_cli import terminal
from mesh_cli.config_check.checking import Checked, check
from mesh_cli.config_check.effective import effective
from mesh_cli.config_check.schema import schema
from mesh_cli.failure import Exit

__all__ = ["command"]

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_HELP)
def command() -> None:
    """Check mesh.toml; print its schema."""


@command.command("check", context_settings=_HELP)
@click.argument("file", required=False)
@click.option("--print", "show", is_flag=True, help="Print what would run, secrets masked.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print what is wrong as JSON.")
def check_command(file: str | None, show: bool, as_json: bool) -> int:
    """Check FILE (default: mesh.toml) completely, and start nothing.

    Looks at keys, values, rules, and at the programs, files and secrets that it names. Exit
    codes: 0 nothing is wrong, 78 something is.
    """
    checked = check(file, os.environ)
    if as_json:
        terminal.line(terminal.pretty(list(checked.found)))
    else:
        _tell(checked, show=show)
    return Exit.CONFIG if checked.found else Exit.OK


@command.command("schema", context_settings=_HELP)
def schema_command() -> None:
    """Print the JSON Schema of mesh.toml, for editors."""
    terminal.line(terminal.pretty(schema()))


def _tell(checked: Checked, *, show: bool) -> None:
    if show and checked.user is not None:
        terminal.line(effective(checked.user.content).rstrip("\n"))
    for one in checked.found:
        terminal.note(str(one))
    what = checked.file or "no file, defaults and environment"
    if not checked.found:
        unused = checked.user.unused if checked.user is not None else ()
        for name in unused:
            terminal.note(f"{what}: {name} is not used by this version")
        terminal.note(f"{what}: ok")
    else:
        count = len(checked.found)
        terminal.note(f"{what}: {count} problem{'s' if count > 1 else ''}")
