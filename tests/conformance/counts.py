"""What a run of this folder adds up to, in the numbers that the suite's users compare.

Each test that runs the official suite notes how many of the required scenarios passed; the last
lines of ``make conformance`` add it up. A line tells the worst of its runs: whatever is printed as
``37 of 37`` was that in every single one.
"""

from collections.abc import Callable, Iterable

import msgspec
from tests.conformance.expectations import expected
from tests.conformance.judged import JUDGED
from tests.conformance.suite import FROZEN, Report, required, version

__all__ = ["Count", "Note", "counted", "lines"]

_RECORDS = "test_requirements.py"


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Scenarios of one run.

    Attributes:
        group: what runs of one line have in common.
        wire: revision of the suite.
        run: what tells this run from the others of its line.
        wanted: scenarios that count.
        missed: those of them that did not pass.
    """

    group: str
    wire: str
    run: str
    wanted: tuple[str, ...]
    missed: tuple[str, ...]


Note = Callable[[Count], None]
"""Keeps a count for the summary."""


def counted(report: Report, *, group: str, wire: str, run: str, only: str = "") -> Count:
    """Count what passed of what the revision requires, or of the scenario ``only``."""
    wanted = (only,) if only else required(wire) if wire in FROZEN else sorted(JUDGED[wire])
    missed = tuple(one for one in wanted if not report.passed(one))
    return Count(group=group, wire=wire, run=run, wanted=tuple(wanted), missed=missed)


def lines(counts: Iterable[Count], outcomes: Iterable[tuple[str, bool]]) -> list[str]:
    """The summary.

    Args:
        counts: of all runs.
        outcomes: of all tests: node id, and whether it passed.
    """
    groups: dict[tuple[str, str], dict[str, list[Count]]] = {}
    for one in counts:
        groups.setdefault((one.group, one.wire), {}).setdefault(one.run, []).append(one)
    said = [_line(*key, runs) for key, runs in groups.items()]
    if said:
        said.insert(0, f"official suite {version()}; each line: scenarios passed in its worst run")
    cells = [passed for name, passed in outcomes if _RECORDS in name and "[" in name]
    if cells:
        said.append(f"own requirement records: {sum(cells)} of {len(cells)} cells hold")
    return said


def _line(group: str, wire: str, runs: dict[str, list[Count]]) -> str:
    wanted = {run: {name for one in counts for name in one.wanted} for run, counts in runs.items()}
    missed = {run: {name for one in counts for name in one.missed} for run, counts in runs.items()}
    worst = min(runs, key=lambda run: len(wanted[run]) - len(missed[run]))
    total = len(wanted[worst])
    named = sorted(set().union(*missed.values()))
    listed = {one.check.partition(":")[0] for one in expected() if one.wire == wire}
    tail = f"; not: {', '.join(_told(name, name in listed) for name in named)}" if named else ""
    times = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    return f"{group}, {wire}: {total - len(missed[worst])} of {total} ({times}{tail})"


def _told(scenario: str, listed: bool) -> str:
    return f"{scenario} [expected.toml]" if listed else scenario
