"""The folders a step may look into, and nothing beside them.

The host names its folders (``[types] roots`` of its configuration, to its workers in
``MESH_AGENT_ROOTS``); the ``roots`` of an agent's ``config`` narrow them. A host that names none
has no agents that read files: what may be read is the operator's to say, not the submitter's.

Every path is resolved first and compared then, so neither ``..`` nor a symbolic link leads out;
a file is opened and looked at once more through its descriptor, so that a link put there in
between leads nowhere either.
"""

import os
import stat
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from mesh_agents.contract import StepFailedError, StepInput
from mesh_agents.types.inputs import refuse

__all__ = [
    "FILES_MAX",
    "FILE_BYTES_MAX",
    "ROOTS_VARIABLE",
    "Found",
    "Roots",
    "opened",
    "read_bytes",
    "roots_of",
    "walk",
]

ROOTS_VARIABLE = "MESH_AGENT_ROOTS"
"""Folders of the host, joined by ``os.pathsep``."""
ROOTS_MAX = 16
FILES_MAX = 20_000
"""Files that one step looks at."""
FILE_BYTES_MAX = 4 * 1024 * 1024
"""Largest file that is read whole; larger ones are named as skipped."""
_DEPTH_MAX = 40
_SKIPPED = frozenset(
    {".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv", "venv", ".tox", ".mesh",
     ".mypy_cache", ".ruff_cache", ".pytest_cache", ".eggs"}
)  # fmt: skip


class Found(msgspec.Struct, frozen=True):
    """A file: ``name`` as results show it (relative to its root, ``/``), ``path`` resolved."""

    name: str
    path: Path


class Roots:
    """Given folders; every path that a step names goes through ``find``."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)

    def __iter__(self) -> Iterator[Path]:
        return iter(self._folders)

    def find(self, text: str) -> Found:
        """A file or folder inside the roots; a relative path is looked for in each root in turn.

        Raises:
            StepFailedError: ``input``: outside, or not there. Both say the same of a place outside,
                so that nobody learns what is there.
        """
        if not text or "\0" in text:
            raise refuse("a path is empty or has a NUL")
        wanted = Path(text)
        for folder in self._folders:
            try:
                path = (folder / wanted).resolve(strict=True)
            except (OSError, RuntimeError):  # RuntimeError: a loop of links
                continue
            root = self._root_of(path)
            if root is not None:
                return Found(path.relative_to(root).as_posix(), path)
        raise refuse(f"not inside the given roots: {text}")

    def folder(self, text: str) -> Path:
        """A folder inside the roots; "" = the only root.

        Raises:
            StepFailedError: ``input``.
        """
        if not text:
            if len(self._folders) != 1:
                raise refuse(f"there are {len(self._folders)} roots: name one")
            return self._folders[0]
        found = self.find(text)
        if not found.path.is_dir():
            raise refuse(f"not a folder: {text}")
        return found.path

    def within(self, text: str) -> "Roots":
        """The part of them below one folder.

        Raises:
            StepFailedError: ``input``.
        """
        return Roots([self.folder(text)])

    def _root_of(self, path: Path) -> Path | None:
        return next((root for root in self._folders if path.is_relative_to(root)), None)


def roots_of(step: StepInput) -> Roots:
    """The roots of a step's agent.

    Raises:
        StepFailedError: ``input``: the host gives none, or the agent asks for more than it gives.
    """
    given = [Path(text) for text in os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep) if text]
    host = Roots([path.resolve() for path in given if path.is_dir()])
    if not list(host):
        raise refuse("this host gives its agents no folders (its roots are not set)")
    asked = step.config.get("roots")
    if asked is None:
        return host
    if not isinstance(asked, list) or not 1 <= len(asked) <= ROOTS_MAX:
        raise refuse(f"config.roots: 1..{ROOTS_MAX} folders")
    return Roots([host.folder(_text(entry)) for entry in asked])


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise refuse("config.roots: each is a path")
    return value


def walk(
    roots: Roots, wanted: Iterable[str] = (), *, suffixes: Sequence[str] = (), files_max: int = 0
) -> list[Found]:
    """Files below the named places (or below all roots), sorted by name, each once.

    Links are not followed below a named place; folders of tools (``.git``, ``__pycache__`` …) are
    left out unless they are named themselves. A file that is named stands whatever its suffix.

    Raises:
        StepFailedError: ``input`` as ``Roots.find``; ``limit`` with more than ``files_max`` files.
    """
    most = files_max or FILES_MAX
    starts = [roots.find(text) for text in wanted] or [Found("", folder) for folder in roots]
    found: dict[Path, Found] = {}
    for start in starts:
        if start.path.is_file():
            found[start.path] = start
        else:
            for path in _below(start.path, 0):
                if not suffixes or path.suffix in suffixes:
                    found[path] = roots.find(str(path))
                    if len(found) > most:
                        raise _too_many(most)
    if len(found) > most:
        raise _too_many(most)
    return sorted(found.values(), key=lambda one: one.name)


def _too_many(most: int) -> StepFailedError:
    return StepFailedError(f"more than {most} files", type="limit", retryable=False)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if depth > _DEPTH_MAX:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _SKIPPED:
                yield from _below(Path(entry.path), depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


@contextmanager
def opened(found: Found) -> Generator[BinaryIO, None, None]:
    """A regular file, to read.

    Raises:
        OSError: it is gone, is no regular file, or is no longer where it was found.
    """
    descriptor = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        seen = Path(f"/proc/self/fd/{descriptor}")
        if seen.is_symlink() and seen.readlink() != found.path:
            raise OSError("moved while it was opened")
        yield file


def read_bytes(found: Found, *, limit: int = FILE_BYTES_MAX) -> bytes:
    """Up to ``limit`` bytes of a file.

    Raises:
        OSError: as ``opened``.
    """
    with opened(found) as file:
        return file.read(limit)
