"""``tester``: finds tests, runs shards of them, merges what they came to.

Input (``payload.input``) by ``do``::

    {"do": "collect", "root": "proj", "tests": ["tests"], "shards": 4, "durations": {ID: 0.2}}
    {"do": "run", "root": "proj", "tests": [ID or file, …], "retry": true}
    {"do": "merge", "runs": [output of run or merge, …]}     (in the order of the runs)

Outputs::

    collect  {"tests": [ID, …], "shards": [{"do": "run", "root", "tests", "seconds"}, …]}
             a shard is the whole input of a ``run`` step
    run      {"tests": [{"id", "outcome", "seconds", "message"?, "attempts"?, "agent"}],
              "root", "passed", "failed", "skipped", "flaky",
              "failures": [{"do": "run", "root", "tests": [ID], "retry": false, "agent"}, …]}
             a failure is the whole input of a ``run`` on another agent than ``agent``
    merge    as run, with "junit": one JUnit document, and "durations": {ID: seconds}

A test that failed is run once more (``retry``), alone with the others that failed: passes it now,
it is ``flaky``. ``merge`` sees a failure and a later pass in another run as flaky too.
Tests are code of the tree they are in: pytest runs in a process group of its own with an
environment that has nothing of the host's, and no more (limits of the host's operating system
apply). ``config.python`` names the interpreter of the tree's environment (an absolute path inside
the roots); default: that of the agent.
"""

import math
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from mesh_agents.contract import AgentType, StepFailedError, StepInput, StepOutput
from mesh_agents.types.inputs import Input, input_of, refuse
from mesh_agents.types.junit import Case, merged, parse, render
from mesh_agents.types.places import Roots, roots_of
from mesh_agents.types.programs import Ended, environment, run_program
from mesh_agents.types.shards import balanced

__all__ = ["TESTER", "Collected", "RunReport", "TestWork", "run"]

TESTS_MAX = 20_000
SHARDS_MAX = 1_000
LINE_CHARS = 100_000
"""Of a command line's tests; longer ones go by file (pytest 8.2 and newer)."""
_BAD = ("failed", "error")
_NODE = re.compile(r"^[^\s:][^:]*\.py::.+$")
_FILE_COUNT = re.compile(r"^(\S.*\.py): (\d+)$")
_DONE = re.compile(rb" (?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


class TestWork(Input, frozen=True, kw_only=True):
    """Input; see the module. ``seconds`` and ``agent`` are what a shard carries along."""

    __test__ = False  # pytest takes the name for that of a test class
    do: Literal["collect", "run", "merge"] = "run"
    root: str = ""
    tests: tuple[str, ...] = ()
    shards: int = 1
    durations: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    retry: bool = True
    keyword: str = ""
    marker: str = ""
    runs: tuple["RunReport", ...] = ()
    name: str = "tests"
    seconds: float = 0.0
    agent: str = ""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Input of a later ``run``."""

    do: str = "run"
    root: str
    tests: list[str]
    retry: bool = True
    seconds: float = 0.0
    agent: str = ""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """Output of ``collect``."""

    tests: list[str]
    shards: list[Shard]


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """Output of ``run`` and ``merge``."""

    tests: list[Case]
    root: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    flaky: int = 0
    failures: list[Shard] = []
    durations: dict[str, float] = {}
    junit: str = ""


def run(step: StepInput) -> StepOutput:
    """Collect, run or merge; see the module.

    Raises:
        StepFailedError: ``input``, ``exit`` (pytest could not run: usage, import of a conftest,
            internal error), ``timeout``, ``limit``, ``junit``.
    """
    wanted = input_of(step, TestWork)
    if wanted.do == "merge":
        return _merge(wanted)
    bench = _Bench(step, wanted)
    if wanted.do == "collect":
        return _collect(bench, wanted)
    return _run(bench, wanted)


class _Bench:
    """pytest in one folder."""

    def __init__(self, step: StepInput, wanted: TestWork) -> None:
        roots = roots_of(step)
        self.step = step
        self.until = time.monotonic() + step.timeout_s
        self.folder = roots.folder(wanted.root)
        self.python = _python(step, roots)
        within = Roots([self.folder])
        for test in wanted.tests:
            within.find(test.partition("::")[0])
            if test.startswith("-"):
                raise refuse(f"not a test: {test}")
        if len(wanted.tests) > TESTS_MAX:
            raise refuse(f"more than {TESTS_MAX} tests")
        self.choice = [
            part
            for flag, text in (("-k", wanted.keyword), ("-m", wanted.marker))
            if text
            for part in (flag, text)
        ]

    def pytest(self, tests: Sequence[str], *arguments: str, progress: bool = False) -> Ended:
        """Run it; exit statuses above 5 and signals are failures of the step."""
        argv = [self.python, "-m", "pytest", "-p", "no:cacheprovider", *self.choice, *arguments]
        if sum(map(len, tests)) > LINE_CHARS:
            listed = Path(self.step.workdir) / "tests.txt"
            listed.write_text("\n".join(tests), encoding="utf-8")
            named = [f"@{listed}"]
        else:
            named = list(tests)
        done = 0

        def told(piece: bytes) -> None:
            nonlocal done
            done += len(_DONE.findall(piece))
            self.step.report(done)

        ended = run_program(
            [*argv, *named],
            cwd=str(self.folder),
            env=environment(self.step.workdir),
            timeout_s=max(self.until - time.monotonic(), 0.1),
            on_output=told if progress else None,
        )
        if ended.status not in (0, 1, 2, 5):
            raise StepFailedError(
                f"pytest ended with {ended.status}: {ended.tail()}", type="exit",
                retryable=ended.status < 0,
            )  # fmt: skip
        return ended


def _python(step: StepInput, roots: Roots) -> str:
    asked = step.config.get("python")
    if asked is None:
        return sys.executable
    if not isinstance(asked, str) or not Path(asked).is_absolute():
        raise refuse("config.python: an absolute path")
    # The interpreter of a virtual environment is a link out of it: its folder must be inside.
    roots.find(str(Path(asked).parent))
    if not os.access(asked, os.X_OK):
        raise refuse("config.python cannot be run")
    return asked


def _collect(bench: _Bench, wanted: TestWork) -> StepOutput:
    if not 1 <= wanted.shards <= SHARDS_MAX:
        raise refuse(f"input.shards: 1..{SHARDS_MAX}")
    if any(not math.isfinite(value) or value < 0 for value in wanted.durations.values()):
        raise refuse("input.durations: seconds")
    ended = bench.pytest(wanted.tests, "--collect-only", "-q", "--no-header")
    if ended.status not in (0, 5):
        raise StepFailedError(
            f"tests cannot be collected: {ended.tail(2_000, output_first=True)}",
            type="exit",
            retryable=False,
        )
    durations = dict(wanted.durations)
    tests: list[str] = []
    for line in ended.output.decode(errors="replace").splitlines():
        counted = _FILE_COUNT.match(line)
        if _NODE.match(line):
            tests.append(line)
        elif counted:
            # The tree's own options say -q as well: then pytest names files and how many tests.
            tests.append(counted.group(1))
            durations.setdefault(counted.group(1), float(counted.group(2)))
    if len(tests) > TESTS_MAX:
        raise StepFailedError(f"more than {TESTS_MAX} tests", type="limit", retryable=False)
    shards = [
        Shard(root=wanted.root, tests=some, seconds=round(takes, 3), retry=wanted.retry)
        for some, takes in (balanced(tests, durations, wanted.shards) if tests else [])
    ]
    return StepOutput(
        structured=Collected(tests=tests, shards=shards),
        text=f"{len(tests)} tests in {len(shards)} shards",
    )


def _run(bench: _Bench, wanted: TestWork) -> StepOutput:
    if not wanted.tests:
        raise refuse("input.tests: at least one test, file or folder")
    first = _cases(bench, wanted.tests, "first")
    failed = [case.id for case in first if case.outcome in _BAD]
    runs = [first]
    if wanted.retry and failed:
        again = [name for name in failed if "::" in name]
        if again:
            try:
                runs.append(_cases(bench, again, "again"))
            except StepFailedError as error:
                # An id that pytest does not find again (it was made up at random): as it failed.
                if error.type != "exit":
                    raise
    report = _report(merged(runs), wanted.root)
    return StepOutput(structured=report, text=_summary(report))


def _cases(bench: _Bench, tests: Sequence[str], name: str) -> list[Case]:
    file = Path(bench.step.workdir) / f"{name}.xml"
    ended = bench.pytest(
        tests, "-v", "--no-header", "--tb=short", "-o", "junit_family=xunit1",
        f"--junitxml={file}", progress=True,
    )  # fmt: skip
    try:
        return parse(file.read_bytes(), bench.step.agent)
    except FileNotFoundError:
        # Something in the tests ended the process (os._exit) before the report was written.
        raise StepFailedError(
            f"pytest wrote no report (exit status {ended.status}): {ended.tail()}", type="crash"
        ) from None


def _merge(wanted: TestWork) -> StepOutput:
    if not wanted.runs:
        raise refuse("input.runs: at least one output of a run")
    cases = merged(one.tests for one in wanted.runs)
    report = msgspec.structs.replace(
        _report(cases, wanted.root or wanted.runs[0].root),
        junit=render(cases, wanted.name),
        durations={case.id: case.seconds for case in cases if case.outcome in ("passed", "flaky")},
    )
    return StepOutput(structured=report, text=_summary(report))


def _report(cases: list[Case], root: str) -> RunReport:
    def count(*outcomes: str) -> int:
        return sum(case.outcome in outcomes for case in cases)

    return RunReport(
        tests=cases,
        root=root,
        passed=count("passed"),
        failed=count(*_BAD),
        skipped=count("skipped"),
        flaky=count("flaky"),
        failures=[
            Shard(root=root, tests=[case.id], retry=False, agent=case.agent)
            for case in cases
            if case.outcome in _BAD and "::" in case.id
        ],
    )


def _summary(report: RunReport) -> str:
    return (
        f"{report.passed} passed, {report.failed} failed, {report.flaky} flaky, "
        f"{report.skipped} skipped"
    )


TESTER = AgentType(
    name="tester",
    description="Collects pytest tests of its roots into shards of equal duration, runs shards, "
    "runs what failed once more to tell flaky from failed, and merges runs into one JUnit report.",
    capabilities=("test_run", "test", "pytest", "python"),
    run=run,
    kinds=frozenset({"call", "merge"}),
)
