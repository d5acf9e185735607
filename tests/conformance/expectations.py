"""The list of what the suite may find, and the verdict on a report: nothing more, nothing less."""

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from tests.conformance.suite import Check, Report

__all__ = ["Expected", "expected", "verdict"]

FILE = Path(__file__).parent / "expected.toml"


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of ``expected.toml``. ``upstream`` is a pattern of an era or a server name."""

    wire: str
    upstream: str
    check: str
    reason: str

    def concerns(self, wire: str, *names: str) -> bool:
        """Whether it speaks of a run: its wire, and the era and name of the server behind."""
        return self.wire == wire and any(fnmatchcase(name, self.upstream) for name in names)

    def covers(self, check: Check) -> bool:
        """Whether it excuses a check."""
        return self.check in {check.scenario, check.key}


def expected() -> tuple[Expected, ...]:
    """All entries."""
    table = tomllib.loads(FILE.read_text())
    return tuple(msgspec.convert(table.get("expected", []), list[Expected]))


def verdict(report: Report, judged: frozenset[str], wire: str, *names: str) -> str:
    """What is wrong with a report; "" = exactly as expected.

    Args:
        report: of a run of the suite.
        judged: scenarios that count.
        wire: revision of the run.
        names: what entries may call the server behind: era, server name.
    """
    entries = [one for one in expected() if one.concerns(wire, *names)]
    lines: list[str] = []
    lacking = sorted(judged - report.scenarios)
    if lacking:
        lines.append(f"did not run: {', '.join(lacking)}\n{report.output}")
    bad = report.bad(judged)
    unexpected = [one for one in bad if not any(entry.covers(one) for entry in entries)]
    if unexpected:
        lines.append(report.explain(unexpected))
    lines += (
        f"stale entry of {FILE.name}: {entry.check} ({wire}, {entry.upstream})"
        for entry in entries
        if entry.check.partition(":")[0] in judged and not any(map(entry.covers, bad))
    )
    return "\n".join(lines)
