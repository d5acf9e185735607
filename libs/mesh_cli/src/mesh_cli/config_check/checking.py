"""Checks a whole ``mesh.toml``: shape, rules, and what it names around it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from mesh_chassis.config_problems import Looked, look
from mesh_cli import user_file
from mesh_cli.config_check.positions import key_lines, line_of
from mesh_cli.config_check.surroundings import around
from mesh_cli.failure import Exit, Failure
from mesh_cli.user_file import DEFAULT_FILE, MeshFile, Problem, UserFile

__all__ = ["Checked", "Found", "check", "read_again"]

_TOML_LINE = re.compile(r"\(at line (\d+)")
_AT = re.compile(r"(.*) - at `\$([^`]*)`", re.DOTALL)
_INDEXED = re.compile(r"^([a-z_]+)\[(\d+)\]")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong.

    Attributes:
        file: path, or ``environment``.
        line: from 1; 0 = it has none (a variable, a key that is missing).
        key: dotted key; "" = the file as a whole.
        text: what is wrong and what is allowed; never a secret.
    """

    file: str
    line: int = 0
    key: str = ""
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.key, self.text) if part)


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    Attributes:
        file: path of the file; "" = there is none, and the defaults are checked.
        found: everything that is wrong, in the order of the lines.
        user: the file as ``mesh up`` would take it; None when it would not.
    """

    file: str
    found: tuple[Found, ...] = ()
    user: UserFile | None = None


def check(
    path: str | None,
    env: Mapping[str, str],
    *,
    folder: Path | None = None,
    surroundings: bool = True,
) -> Checked:
    """Check a file as a start would, and go on after the first problem.

    Args:
        path: the file; None = ``mesh.toml`` in ``folder`` when there is one.
        env: the environment.
        folder: default the working directory.
        surroundings: also look whether programs, files and secrets are there.
    """
    chosen = Path(path) if path is not None else (folder or Path.cwd()) / DEFAULT_FILE
    file = chosen if path is not None or chosen.is_file() else None
    lines = _lines(file)
    found = list(_all_found(file, env, lines, surroundings=surroundings))
    user: UserFile | None = None
    try:
        user = user_file.read(path, env, folder=folder)
    except Failure as failure:
        if not found:  # what only a start looks at: MESH_… variables
            found.append(Found(file="environment", text=failure.what))
    found.sort(key=lambda one: one.line)
    return Checked(file=str(file or ""), found=tuple(found), user=user)


def read_again(path: str | None, env: Mapping[str, str], folder: Path) -> UserFile:
    """The file for a reload.

    Raises:
        Failure: it is wrong; says everything that is.
    """
    checked = check(path, env, folder=folder, surroundings=False)
    if checked.user is None:
        raise Failure(
            "nothing was changed, the file is wrong:\n"
            + "\n".join(f"  {one}" for one in checked.found),
            mend="correct the file and reload again (mesh config check looks at it)",
            code=Exit.CONFIG,
        )
    return checked.user


def _all_found(
    file: Path | None, env: Mapping[str, str], lines: dict[str, int], *, surroundings: bool
) -> Iterator[Found]:
    source = str(file) if file is not None else "environment"
    try:
        given = user_file.overrides(env)
    except Failure as failure:
        yield Found(file="environment", text=failure.what)
        given = {}
    looked = look(MeshFile, file, env, given)
    for error in looked.problems:
        line = line_of(lines, error.key)
        at = _TOML_LINE.search(error.reason) if not error.key else None
        yield Found(file=source, line=int(at[1]) if at else line, key=error.key, text=error.reason)
    if looked.content is None:
        return
    rules: Iterable[Problem] = user_file.problems(looked.content)
    missing: Iterable[Problem] = around(looked.content, env) if surroundings else ()
    for problem in (*rules, *missing):
        key, text = _inside(_in_file(problem.key, looked), problem.text)
        yield Found(file=source, line=line_of(lines, key.partition(" ")[0]), key=key, text=text)


def _in_file(key: str, looked: Looked[MeshFile]) -> str:
    """The key with the place that its table has in the file."""
    found = _INDEXED.match(key)
    if found is None or found[1] not in looked.kept:
        return key
    place = looked.kept[found[1]][int(found[2])]
    return f"{found[1]}[{place}]{key[found.end() :]}"


def _inside(key: str, text: str) -> tuple[str, str]:
    """The key within ``settings`` that a text of the server's type names."""
    head, found, rest = text.partition("settings: ")
    if head or not found:
        return key, text
    at = _AT.fullmatch(rest)
    return (f"{key}.settings{at[2]}", at[1]) if at is not None else (f"{key}.settings", rest)


def _lines(file: Path | None) -> dict[str, int]:
    if file is None:
        return {}
    try:
        return key_lines(file.read_text())
    except (OSError, UnicodeDecodeError):
        return {}
