"""Which folders of the host a program needs to be found and started in a sandbox.

A server's own program is given read-only without being named: the virtual environment of a Python
program with the interpreter it was made from, the ``node_modules`` a Node program lies in, else
the file itself. Symbolic links and ``#!`` lines are followed, as the kernel would.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

__all__ = ["Program", "find_program", "scripts"]

_HOPS_MAX = 8
_HEAD_BYTES = 512
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib", "/nix/store/")


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program as it is started in a sandbox.

    Attributes:
        path: absolute path.
        paths: files and folders of the host that it needs beside the system's.
        search: folders that belong before the usual ``PATH``.
    """

    path: str
    paths: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def find_program(command: str, *, search: str, cwd: str = "") -> Program | None:
    """Find a program on this host; None = there is none.

    Args:
        command: its name or path.
        search: ``PATH`` for a name.
        cwd: what a relative path is relative to.
    """
    if "/" in command:
        found = str(Path(cwd or ".", command).absolute())
        found = os.path.normpath(found) if os.access(found, os.X_OK) else None
    else:
        found = shutil.which(command, path=search)
    if found is None:
        return None
    found = str(Path(found).absolute())
    needed: dict[str, None] = {}
    _follow(found, needed, _HOPS_MAX)
    folder = str(Path(found).parent)
    return Program(
        path=found,
        paths=tuple(needed),
        search=() if _is_system(f"{folder}/") else (folder,),
    )


def scripts(args: Sequence[str], folder: str) -> tuple[str, ...]:
    """Arguments that name a file of this host: the script of an interpreter, mostly.

    Args:
        args: as given.
        folder: what relative ones are relative to.

    Returns:
        Absolute paths; those of the system's own files are left out.
    """
    named = (os.path.normpath(Path(folder, one)) for one in args if one and not one.startswith("-"))
    return tuple(one for one in named if not _is_system(one) and _is_file(one))


def _follow(path: str, needed: dict[str, None], hops: int) -> None:
    """Add what ``path`` needs to be executed."""
    if hops == 0 or _is_system(path):
        return
    home = _home(Path(path))
    needed.setdefault(home or path)
    if Path(path).is_symlink():
        target = os.path.normpath(Path(path).parent / Path(path).readlink())
        _follow(target, needed, hops - 1)
        return
    interpreter = _shebang(path)
    if interpreter and interpreter != path:
        _follow(interpreter, needed, hops - 1)


def _home(path: Path) -> str:
    """The installation that a program is a part of; "" = it stands alone."""
    prefix = path.parent.parent
    if path.parent.name in {"bin", "Scripts"} and not _is_whole(prefix):
        if (prefix / "pyvenv.cfg").is_file():
            return str(prefix)
        if any(prefix.glob("lib/python3.*")):
            return str(prefix)
    for parent in path.parents:
        if parent.name == "node_modules":
            return str(parent)
    return ""


def _is_whole(prefix: Path) -> bool:
    # ~/.local looks like an installation and holds everything else of a user too.
    return str(prefix) in {"/", "/usr", "/usr/local"} or prefix.name == ".local"


def _shebang(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    if not head.startswith(b"#!"):
        return ""
    words = head[2:].splitlines()[0].split()
    return os.fsdecode(words[0]) if words and words[0].startswith(b"/") else ""


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False  # too long, or no path at all


def _is_system(path: str) -> bool:
    return path.startswith(_SYSTEM)
