"""Context files of the ``nats`` tool: the same files, so switching between the tools is free.

A context is a JSON object in ``<config>/nats/context/<name>.json``; ``<config>/nats/context.txt``
names the selected one. Ours lie below the state directory (so the stock tool finds them with
``XDG_CONFIG_HOME=.mesh``); a person's own lie below ``~/.config``.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mesh_cli.failure import Exit, Failure
from mesh_cli.state import StateDir

__all__ = ["DEMO", "OPERATOR", "Context", "Folder", "folder_of", "lookup", "own_folder", "usual"]

OPERATOR = "operator"
DEMO = "demo"


class Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One way to connect. Field names are the ``nats`` tool's; it may write further ones.

    Attributes:
        url: one or several server URLs, separated by commas.
        nkey: path of a seed file.
        creds: path of a credentials file.
        inbox_prefix: prefix of reply subjects; "" = ``_INBOX``.
    """

    description: str = ""
    url: str = ""
    token: str = ""
    user: str = ""
    password: str = ""
    creds: str = ""
    nkey: str = ""
    cert: str = ""
    key: str = ""
    ca: str = ""
    inbox_prefix: str = ""


class Folder:
    """The contexts below one configuration directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._chosen = root / "context.txt"

    def path(self, name: str) -> Path:
        """File of a context."""
        return self.root / "context" / f"{name}.json"

    def names(self) -> list[str]:
        """Names of all contexts, sorted."""
        return sorted(path.stem for path in (self.root / "context").glob("*.json"))

    def selected(self) -> str:
        """Name of the selected context; "" when none is."""
        try:
            return self._chosen.read_text().strip()
        except OSError:
            return ""

    def select(self, name: str) -> None:
        """Make a context the one used when none is named.

        Raises:
            Failure: there is no such context.
        """
        if name not in self.names():
            raise Failure(f"no context named {name}", mend=f"there are: {', '.join(self.names())}")
        self._chosen.write_text(f"{name}\n")

    def read(self, name: str) -> Context:
        """Read a context.

        Raises:
            Failure: it does not exist or is no context file.
        """
        path = self.path(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Context)
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none"
            raise Failure(f"no context named {name}", mend=f"contexts here: {known}") from None
        except (OSError, msgspec.DecodeError) as error:
            raise Failure(f"cannot read context {path}: {error}") from None

    def write(self, name: str, context: Context) -> None:
        """Write a context file, readable by its owner only."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(context), indent=2) + b"\n")
        path.chmod(0o600)


def folder_of(state: StateDir) -> Folder:
    """The contexts that ``mesh up`` wrote."""
    return Folder(state.contexts.parent)


def own_folder(env: Mapping[str, str] | None = None) -> Folder:
    """The contexts of the person, as the ``nats`` tool keeps them."""
    table = os.environ if env is None else env
    config = table.get("XDG_CONFIG_HOME") or str(Path(table.get("HOME", "~")) / ".config")
    return Folder(Path(config).expanduser() / "nats")


def lookup(name: str, folders: list[Folder]) -> Context:
    """Read a context by name from the first folder that has it.

    Raises:
        Failure: no folder has it.
    """
    for folder in folders:
        if folder.path(name).exists():
            return folder.read(name)
    known = ", ".join(sorted({known for folder in folders for known in folder.names()})) or "none"
    raise Failure(f"no context named {name}", mend=f"there are: {known}", code=Exit.USAGE)


def usual(state: StateDir | None, folders: list[Folder]) -> Context:
    """The context used when none is named: the selected one, else ``operator`` of a mesh here."""
    for folder in folders:
        chosen = folder.selected()
        if chosen and folder.path(chosen).exists():
            return folder.read(chosen)
        if (
            state is not None
            and folder.root == state.contexts.parent
            and folder.path(OPERATOR).exists()
        ):
            return folder.read(OPERATOR)
    return Context()
