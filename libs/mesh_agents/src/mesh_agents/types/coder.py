r"""``coder``: formats and fixes Python files with ruff, on a copy; returns a unified diff.

Input (``payload.input``)::

    {"root": "src", "files": ["a.py", "pkg"], "do": ["fix", "format"], "select": ["F", "I"],
     "unsafe": false, "config": "pyproject.toml"}

``do`` in its order; ``select`` are ruff's rules for ``fix`` (default: its own default set, or the
configuration's); ``config`` is a configuration file inside the roots, "" = none, also not that of
the tree. Output::

    {"diff": "--- a/a.py\n+++ b/a.py\n…", "files": [{"file": "a.py", "added": 1, "removed": 2}],
     "looked_at": 7, "left": [{"file": "a.py", "line": 3, "rule": "F821", "message": "…"}],
     "skipped": {}}

``left`` is what ``fix`` could not fix, by lines of the changed file. The files themselves are
never written: the diff is the answer, ``patch -p1`` (or ``git apply``) in the root takes it.
"""

import difflib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from mesh_agents.contract import AgentType, StepFailedError, StepInput, StepOutput
from mesh_agents.types.inputs import Input, input_of, refuse
from mesh_agents.types.linters import PYTHON, ruff_program
from mesh_agents.types.places import FILE_BYTES_MAX, Roots, read_bytes, roots_of, walk
from mesh_agents.types.programs import environment, run_program

__all__ = ["CODER", "Changed", "CodeWork", "run"]

FILES_MAX = 2_000
TOTAL_BYTES_MAX = 32 * 1024 * 1024
DIFF_CHARS_MAX = 4 * 1024 * 1024
SELECT_MAX = 100


class CodeWork(Input, frozen=True, kw_only=True):
    """Input; see the module."""

    root: str = ""
    files: tuple[str, ...] = ()
    do: tuple[Literal["fix", "format"], ...] = ("fix", "format")
    select: tuple[str, ...] = ()
    unsafe: bool = False
    config: str = ""


class ChangedFile(msgspec.Struct, frozen=True, kw_only=True):
    """Lines added and removed."""

    file: str
    added: int
    removed: int


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be fixed."""

    file: str
    line: int
    rule: str
    message: str


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """Output; see the module."""

    diff: str
    files: list[ChangedFile]
    looked_at: int
    left: list[Left]
    skipped: dict[str, str]


class _Place(msgspec.Struct):
    row: int


class _Said(msgspec.Struct):
    code: str | None
    filename: str
    location: _Place
    message: str


def run(step: StepInput) -> StepOutput:
    """Work on a copy; see the module.

    Raises:
        StepFailedError: ``input``, ``not_installed``, ``limit``, ``exit``, ``timeout``.
    """
    wanted = input_of(step, CodeWork)
    if not wanted.do:
        raise refuse("input.do: fix, format or both")
    if len(wanted.select) > SELECT_MAX or not all(map(_is_rule, wanted.select)):
        raise refuse("input.select: names of ruff's rules")
    roots = roots_of(step)
    config = str(roots.find(wanted.config).path) if wanted.config else ""
    if wanted.root:
        roots = roots.within(wanted.root)
    copy = Path(step.workdir) / "copy"
    before, skipped = _copied(roots, wanted.files, copy)
    left: list[Left] = []
    bench = _Bench(step, config, copy, list(before))
    if before:
        for number, job in enumerate(wanted.do):
            step.report(number, len(wanted.do), job)
            if job == "fix":
                bench.fix(wanted.select, unsafe=wanted.unsafe)
            else:
                bench.format()
        if "fix" in wanted.do:
            left = bench.left(wanted.select)
    diff, files = _differences(before, copy)
    return StepOutput(
        structured=Changed(
            diff=diff, files=files, looked_at=len(before), left=left, skipped=skipped
        ),
        text=f"{len(files)} of {len(before)} files change, {len(left)} findings are left",
    )


def _is_rule(text: str) -> bool:
    return text.isascii() and text.isalnum()


def _copied(
    roots: Roots, files: Sequence[str], copy: Path
) -> tuple[dict[str, str], dict[str, str]]:
    before: dict[str, str] = {}
    skipped: dict[str, str] = {}
    total = 0
    for one in walk(roots, files, suffixes=PYTHON, files_max=FILES_MAX):
        if one.path.suffix not in PYTHON:
            skipped[one.name] = "not Python"
            continue
        try:
            content = read_bytes(one, limit=FILE_BYTES_MAX + 1)
            text = content.decode("utf-8")
        except OSError:
            skipped[one.name] = "unreadable"
            continue
        except UnicodeDecodeError:
            skipped[one.name] = "not UTF-8"
            continue
        total += len(content)
        if len(content) > FILE_BYTES_MAX:
            skipped[one.name] = f"larger than {FILE_BYTES_MAX} bytes"
            continue
        if total > TOTAL_BYTES_MAX:
            raise StepFailedError(
                f"more than {TOTAL_BYTES_MAX} bytes of code", type="limit", retryable=False
            )
        target = copy / one.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        before[one.name] = text
    return before, skipped


class _Bench:
    """ruff over the copy."""

    def __init__(self, step: StepInput, config: str, copy: Path, names: Sequence[str]) -> None:
        self._program = ruff_program()
        self._until = time.monotonic() + step.timeout_s
        self._workdir = step.workdir
        self._rules = ["--config", config] if config else ["--isolated"]
        self._copy = copy.resolve()
        self._names = names

    def fix(self, select: Sequence[str], *, unsafe: bool) -> None:
        """Fix what can be fixed."""
        more = ["--unsafe-fixes"] if unsafe else []
        self._run("check", "--quiet", "--fix", "--exit-zero", *more, *_selected(select))

    def left(self, select: Sequence[str]) -> list[Left]:
        """What is found now."""
        output = self._run(
            "check", "--quiet", "--output-format", "json", "--exit-zero", *_selected(select)
        )
        try:
            said = msgspec.json.decode(output, type=list[_Said])
        except msgspec.DecodeError:
            raise StepFailedError("ruff said nothing that can be read", type="exit") from None
        return [
            Left(
                file=Path(one.filename).relative_to(self._copy).as_posix(),
                line=one.location.row,
                rule=one.code or "invalid-syntax",
                message=one.message,
            )
            for one in said
        ]

    def format(self) -> None:
        """Format; a file that does not parse stays as it is."""
        self._run("format", fine=(0, 2))

    def _run(self, *arguments: str, fine: Sequence[int] = (0,)) -> bytes:
        # The folder, not the names: a command line has an end, and the copy has nothing else.
        ended = run_program(
            [self._program, *arguments, "--no-cache", *self._rules, "."],
            cwd=str(self._copy),
            env=environment(self._workdir),
            timeout_s=max(self._until - time.monotonic(), 0.1),
        )
        if ended.status not in fine or (ended.status == 2 and not _only_syntax(ended.errors)):
            raise StepFailedError(f"ruff ended with {ended.status}: {ended.tail()}", type="exit")
        return ended.output


def _selected(select: Sequence[str]) -> list[str]:
    return ["--select", ",".join(select)] if select else []


def _only_syntax(errors: bytes) -> bool:
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    return bool(lines) and any("Failed to parse" in line for line in lines)


def _differences(before: Mapping[str, str], copy: Path) -> tuple[str, list[ChangedFile]]:
    pieces: list[str] = []
    files: list[ChangedFile] = []
    size = 0
    for name, text in before.items():
        after = (copy / name).read_bytes().decode("utf-8")
        if after == text:
            continue
        lines = _unified(name, text, after)
        size += sum(map(len, lines))
        if size > DIFF_CHARS_MAX:
            raise StepFailedError(
                f"the diff has more than {DIFF_CHARS_MAX} characters: name fewer files",
                type="limit",
                retryable=False,
            )
        pieces += lines
        files.append(
            ChangedFile(
                file=name,
                added=sum(line.startswith("+") for line in lines[2:]),
                removed=sum(line.startswith("-") for line in lines[2:]),
            )
        )
    return "".join(pieces), files


def _unified(name: str, before: str, after: str) -> list[str]:
    return [
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(_lines(before), _lines(after), f"a/{name}", f"b/{name}")
    ]


def _lines(text: str) -> list[str]:
    # At \n alone: patch does not take for line ends what else Python's splitlines does.
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])


CODER = AgentType(
    name="coder",
    description="Fixes and formats Python files of its roots with ruff on a copy, and returns the "
    "unified diff and what it could not fix; the files stay as they are.",
    capabilities=("fix", "format", "python"),
    run=run,
    kinds=frozenset({"call"}),
)
