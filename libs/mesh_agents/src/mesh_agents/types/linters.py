"""Linters as they are installed on this host; each gives ``findings.Raw``.

None of them runs code of what it looks at: configuration files of the tree are not read (pylint's
can name code to load), and pylint imports only from where it was installed (``pinned_imports``).
"""

import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from mesh_agents.contract import StepFailedError
from mesh_agents.types.findings import Raw, rules_of
from mesh_agents.types.places import Found
from mesh_agents.types.programs import Ended, environment, run_program
from mesh_agents.types.syntax import NotPythonError, parsed

__all__ = ["LINTERS", "PYTHON", "Asked", "Linter", "bandit", "ruff_program", "version_of"]

PYTHON = (".py", ".pyi")

Said = TypeVar("Said")

BATCH_CHARS = 100_000
"""Length of a command line's files; the system allows about 2 MiB, less for one argument."""
_MODULE = [sys.executable, "-I", "-X", "utf8", "-m"]


class _RuffPlace(msgspec.Struct):
    row: int


class _RuffSaid(msgspec.Struct):
    code: str | None
    filename: str
    location: _RuffPlace
    message: str


class _PylintSaid(msgspec.Struct, rename="camel"):
    symbol: str
    message: str
    line: int
    absolute_path: str


class _PylintAll(msgspec.Struct):
    messages: list[_PylintSaid]


class _BanditSaid(msgspec.Struct):
    filename: str
    issue_text: str
    line_number: int
    test_id: str


class _BanditError(msgspec.Struct):
    filename: str
    reason: str


class _BanditAll(msgspec.Struct):
    results: list[_BanditSaid]
    errors: list[_BanditError] = []


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What every linter is given.

    Attributes:
        files: to look at; never empty.
        texts: their texts, by name.
        workdir: for whatever the linter writes.
        timeout_s: what is left.
        everything: all of its rules, not only those with a class.
    """

    files: Sequence[Found]
    texts: Mapping[str, str]
    workdir: str
    timeout_s: float
    everything: bool = False


Linter = Callable[[Asked], list[Raw]]


def version_of(tool: str) -> str:
    """Version of an installed tool.

    Raises:
        StepFailedError: ``not_installed``, naming it.
    """
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        raise StepFailedError(
            f"{tool} is not installed on this agent's host",
            type="not_installed",
            retryable=False,
            outcome="not_executed",
        ) from None


def ruff_program() -> str:
    """Path of ruff.

    Raises:
        StepFailedError: ``not_installed``.
    """
    found = shutil.which("ruff", path=environment("")["PATH"])
    if found is None:
        version_of("ruff")
        raise StepFailedError("ruff is not on the path of this agent's host", type="not_installed")
    return found


def ruff(asked: Asked) -> list[Raw]:
    """All files at once; ``--isolated``: no configuration of the tree."""
    select = ["--preview", "--select", "ALL"] if asked.everything else _select()
    argv = [ruff_program(), "check", "--isolated", "--no-cache", "--ignore-noqa", "--quiet",
            "--output-format", "json", *select]  # fmt: skip
    found: list[Raw] = []
    names = _names(asked.files)
    for batch in _batches(asked.files):
        ended = _run([*argv, "--", *batch], asked)
        for said in _decoded("ruff", ended, (0, 1), list[_RuffSaid]):
            rule = said.code or "invalid-syntax"
            found.append(_raw("ruff", names, said.filename, said.location.row, rule, said.message))
    return found


def _select() -> list[str]:
    codes = [rule for rule in rules_of("ruff") if rule != "invalid-syntax"]
    return ["--select", ",".join(codes)]


def pylint(asked: Asked) -> list[Raw]:
    """All files at once, so that it sees their modules together; one process."""
    enable = ["--enable=all"] if asked.everything else [f"--enable={','.join(rules_of('pylint'))}"]
    argv = [*_MODULE, "mesh_agents.types.pinned_imports", "pylint", "--rcfile=/dev/null",
            "--disable=all", *enable, "--persistent=n", "--score=n", "-f", "json2"]  # fmt: skip
    version_of("pylint")
    found: list[Raw] = []
    names = _names(asked.files)
    for batch in _batches(asked.files):
        ended = _run([*argv, "--", *batch], asked)
        if ended.status & 32 or ended.status < 0:  # its exit status is a sum of bits; 32 = usage
            raise _failed("pylint", ended)
        said = _decoded("pylint", ended, range(32), _PylintAll)
        found += [
            _raw("pylint", names, one.absolute_path, one.line, one.symbol, one.message)
            for one in said.messages
        ]
    return found


def bandit(asked: Asked) -> list[Raw]:
    """Its own rules only."""
    version_of("bandit")
    some = [] if asked.everything else ["-t", ",".join(rules_of("bandit"))]
    argv = [*_MODULE, "bandit", "-q", "-f", "json", "--ignore-nosec", *some, "--exit-zero"]
    found: list[Raw] = []
    names = _names(asked.files)
    python = [one for one in asked.files if one.path.suffix in PYTHON]
    for batch in _batches(python):
        ended = _run([*argv, *batch], asked)
        said = _decoded("bandit", ended, (0,), _BanditAll)
        found += [
            _raw("bandit", names, one.filename, one.line_number, one.test_id, one.issue_text)
            for one in said.results
        ]
    return found


def pyflakes(asked: Asked) -> list[Raw]:
    """In this process, which is the step's own: its command line does not name its rules."""
    version_of("pyflakes")
    from pyflakes import checker  # noqa: PLC0415 - optional, and only here

    found: list[Raw] = []
    for one in asked.files:
        try:
            tree = parsed(asked.texts[one.name])
        except NotPythonError as error:
            found.append(Raw(one.name, error.line, "SyntaxError", "pyflakes", error.message))
            continue
        for said in checker.Checker(tree, filename=one.name).messages:
            text = str(said.message) % said.message_args
            found.append(Raw(one.name, said.lineno, type(said).__name__, "pyflakes", text))
    return found


LINTERS: Mapping[str, Linter] = {
    "ruff": ruff, "pyflakes": pyflakes, "pylint": pylint, "bandit": bandit,
}  # fmt: skip


def _run(argv: Sequence[str], asked: Asked) -> Ended:
    env = environment(asked.workdir)
    return run_program(argv, cwd=asked.workdir, env=env, timeout_s=asked.timeout_s)


def _batches(files: Sequence[Found]) -> list[list[str]]:
    batches: list[list[str]] = []
    length = BATCH_CHARS
    for one in files:
        length += len(str(one.path)) + 1
        if length > BATCH_CHARS:
            batches.append([])
            length = len(str(one.path))
        batches[-1].append(str(one.path))
    return batches


def _names(files: Sequence[Found]) -> dict[str, str]:
    return {str(one.path): one.name for one in files}


def _raw(tool: str, names: Mapping[str, str], path: str, line: int, rule: str, message: str) -> Raw:
    return Raw(names.get(path, Path(path).name), line, rule, tool, message)


def _decoded(tool: str, ended: Ended, fine: Sequence[int], wanted: type[Said]) -> Said:
    if ended.status not in fine:
        raise _failed(tool, ended)
    try:
        return msgspec.json.decode(ended.output, type=wanted)
    except msgspec.DecodeError:
        raise _failed(tool, ended) from None


def _failed(tool: str, ended: Ended) -> StepFailedError:
    return StepFailedError(f"{tool} ended with {ended.status}: {ended.tail()}", type="exit")
