r"""``analyst``: counts and figures of rows (csv, jsonl, log lines), mergeable over shards.

Input (``payload.input``) by ``do``::

    {"do": "split", "sources": [SOURCE, …], "shards": 8, "analysis": ANALYSIS}
    {"do": "analyse", "sources": [SOURCE, …], "analysis": ANALYSIS}
    {"outputs": [SUMMARY, …]}                       (a ``merge`` step, or ``"do": "merge"``)

    SOURCE    {"path": "a.jsonl"} | {"artifact": "logs/a.log"} | {"text": "…"}, "start"?, "end"?
    ANALYSIS  {"format": "jsonl" | "csv" | "log", "pattern": "(?P<level>\S+) …" (log),
               "delimiter": "," (csv), "groupBy": ["path"], "counts": ["level"],
               "numbers": ["ms"], "where": {"level": "ERROR"}, "quantiles": [0.5, 0.95, 0.99]}

Outputs::

    split     {"shards": [{"do": "analyse", "sources": […], "analysis": ANALYSIS}, …]}
              a shard is the whole input of an ``analyse`` step
    SUMMARY   {"rows": 9, "unreadable": 1, "quantiles": […], "groups": [{"key": {"path": "/a"},
               "rows": 5, "counts": {"level": {"INFO": 5}}, "numbers": {"ms": {"count", "invalid",
               "min", "max", "sum", "mean", "deviation", "quantiles": {"0.5": 12.0},
               "exact": true, "kept": {…}}}}]}

A merge of summaries is again a summary, and equals that of one run over all rows byte for byte:
see ``sketches`` for how, and for when quantiles are exact and when within 0.5 %. Quoted line ends
make ranges of csv meaningless, so csv is split by whole sources.
"""

import csv
import re
import time
from collections.abc import Iterator
from typing import Literal

import msgspec

from mesh_agents.contract import AgentType, StepFailedError, StepInput, StepOutput
from mesh_agents.types.inputs import Input, JsonValue, input_of, refuse
from mesh_agents.types.places import Roots, roots_of
from mesh_agents.types.row_sources import Source, cut, lines, size_of
from mesh_agents.types.summaries import Analysis, Row, Summary, Tally, merged

__all__ = ["ANALYST", "run"]

SHARDS_MAX = 1_000
FIELDS_MAX = 32
_REPORT_ROWS = 20_000


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Input of a later ``analyse``."""

    do: str = "analyse"
    sources: tuple[Source, ...]
    analysis: Analysis


class Shards(msgspec.Struct, frozen=True, kw_only=True):
    """Output of ``split``."""

    shards: list[Shard]


class Rows(Input, frozen=True, kw_only=True):
    """Input; see the module. ``aggregate`` is what a merge was made for."""

    do: Literal["split", "analyse", "merge"] = "analyse"
    sources: tuple[Source, ...] = ()
    shards: int = 1
    analysis: Analysis = Analysis()
    outputs: tuple[Summary, ...] = ()
    aggregate: JsonValue = None


def run(step: StepInput) -> StepOutput:
    """Split, analyse or merge; see the module.

    Raises:
        StepFailedError: ``input``, ``limit``, ``timeout``, ``tool`` (an artifact).
    """
    wanted = input_of(step, Rows)
    if step.kind == "merge" or wanted.do == "merge":
        return _told(merged(wanted.outputs))
    _check(wanted)
    roots = roots_of(step) if any(source.path for source in wanted.sources) else None
    if wanted.do == "split":
        return _split(step, wanted, roots)
    tally = Tally(wanted.analysis)
    until = time.monotonic() + step.timeout_s
    for number, row in enumerate(_rows(step, wanted, roots), 1):
        tally.add(row)
        if number % _REPORT_ROWS == 0:
            step.report(number)
            if time.monotonic() > until:
                raise StepFailedError("the rows were not read in time", type="timeout")
    return _told(tally.summary())


def _check(wanted: Rows) -> None:
    analysis = wanted.analysis
    if not wanted.sources:
        raise refuse("input.sources: at least one")
    for source in wanted.sources:
        if sum(map(bool, (source.path, source.artifact, source.text))) != 1:
            raise refuse("input.sources: each has one of path, artifact and text")
        if analysis.format == "csv" and (source.start or source.end is not None):
            raise refuse("input.sources: csv has no ranges")
    if max(map(len, (analysis.group_by, analysis.counts, analysis.numbers))) > FIELDS_MAX:
        raise refuse(f"input.analysis: at most {FIELDS_MAX} fields")
    if any(not 0 <= share <= 1 for share in analysis.quantiles):
        raise refuse("input.analysis.quantiles: 0..1")
    if len(analysis.delimiter) != 1:
        raise refuse("input.analysis.delimiter: one character")
    if (analysis.format == "log") != bool(analysis.pattern):
        raise refuse("input.analysis.pattern: for log, and only for log")


def _split(step: StepInput, wanted: Rows, roots: Roots | None) -> StepOutput:
    if not 1 <= wanted.shards <= SHARDS_MAX:
        raise refuse(f"input.shards: 1..{SHARDS_MAX}")
    sizes = [size_of(step, source, roots) for source in wanted.sources]
    total = max(1, sum(sizes))
    pieces: list[Source] = []
    for source, size in zip(wanted.sources, sizes, strict=True):
        whole = wanted.analysis.format == "csv" or source.text
        share = max(1, round(wanted.shards * size / total))
        pieces += [source] if whole else cut(source, size, share)
    shards = [Shard(sources=(piece,), analysis=wanted.analysis) for piece in pieces]
    return StepOutput(structured=Shards(shards=shards), text=f"{len(shards)} shards")


def _rows(step: StepInput, wanted: Rows, roots: Roots | None) -> Iterator[Row | None]:
    """Each row; None = an unreadable one. Empty lines are no rows."""
    analysis = wanted.analysis
    match analysis.format:
        case "jsonl":
            decoder = msgspec.json.Decoder(dict[str, object])
            for line in _lines(step, wanted, roots):
                yield _decoded(decoder, line)
        case "log":
            pattern = _pattern(analysis.pattern)
            for line in _lines(step, wanted, roots):
                found = None if line is None else pattern.match(line.decode(errors="replace"))
                yield found.groupdict() if found else None
        case "csv":
            for source in wanted.sources:
                yield from _csv(lines(step, source, roots), analysis.delimiter)


def _csv(found: Iterator[bytes | None], delimiter: str) -> Iterator[Row | None]:
    long = 0

    def texts() -> Iterator[str]:
        nonlocal long
        for line in found:
            if line is None:
                long += 1
            else:
                yield line.decode("utf-8-sig", errors="replace") + "\n"

    try:
        for row in csv.DictReader(texts(), delimiter=delimiter, strict=True):
            # Too many or too few cells: not the row that the header promises.
            yield None if None in row or None in row.values() else row
    except csv.Error:
        yield None  # what follows an open quote cannot be told from it
    yield from (None for _ in range(long))


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise refuse(f"input.analysis.pattern: {error}") from None
    if not pattern.groupindex:
        raise refuse("input.analysis.pattern: names no groups, as in (?P<level>\\S+)")
    return pattern


def _lines(step: StepInput, wanted: Rows, roots: Roots | None) -> Iterator[bytes | None]:
    for source in wanted.sources:
        for line in lines(step, source, roots):
            if line is None or line.strip():
                yield line


def _decoded(decoder: msgspec.json.Decoder[dict[str, object]], line: bytes | None) -> Row | None:
    if line is None:
        return None
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _told(summary: Summary) -> StepOutput:
    return StepOutput(
        structured=summary,
        text=f"{summary.rows} rows in {len(summary.groups)} groups, "
        f"{summary.unreadable} unreadable",
    )


ANALYST = AgentType(
    name="analyst",
    description="Counts rows of csv, jsonl and log files (of its roots or of artifacts), groups "
    "them, takes sums, means, deviations and quantiles, and merges summaries of shards exactly.",
    capabilities=("map_reduce", "statistics"),
    run=run,
    kinds=frozenset({"call", "merge"}),
)
