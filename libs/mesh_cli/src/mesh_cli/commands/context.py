"""``mesh context``: the connection contexts of this mesh and of the person's ``nats`` tool."""

from typing import Any

import click

from mesh_cli import terminal
from mesh_cli.contexts import Folder, folder_of, lookup, own_folder, usual
from mesh_cli.options import with_state
from mesh_cli.state import find

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List, show and select connection contexts."""


def _folders(state_given: str | None) -> list[Folder]:
    state = find(state_given)
    return [*([folder_of(state)] if state is not None else []), own_folder()]


@command.command("ls")
@with_state
def list_contexts(state: str | None) -> None:
    """List contexts; the one in use is starred."""
    folders = _folders(state)
    inside = find(state)
    current = usual(inside, folders)
    rows: list[tuple[str, str, str]] = []
    for folder in folders:
        for name in folder.names():
            context = folder.read(name)
            star = "*" if context == current else ""
            rows.append((f"{name}{star}", context.url, context.description))
    terminal.line(terminal.table(("NAME", "URL", "DESCRIPTION"), rows))


@command.command("select")
@click.argument("name")
@with_state
def select(name: str, state: str | None) -> None:
    """Use the context NAME when none is named."""
    for folder in _folders(state):
        if name in folder.names():
            folder.select(name)
            terminal.line(f"selected {name}: {folder.read(name).url}")
            return
    lookup(name, _folders(state))


@command.command("info")
@click.argument("name", required=False)
@with_state
def info(name: str | None, state: str | None) -> None:
    """Show a context, without its secrets."""
    folders = _folders(state)
    context: Any = lookup(name, folders) if name else usual(find(state), folders)
    for field in ("description", "url", "nkey", "creds", "user", "ca", "inbox_prefix"):
        value = getattr(context, field)
        if value:
            terminal.line(f"{field}: {value}")
