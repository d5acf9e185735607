"""Figures of rows, and that shards come to the same as one run."""

import base64
import csv
import json
import math
import random
import statistics
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_agents.contract import Json, StepFailedError, ToolAnswer
from mesh_agents.types import sketches, summaries
from mesh_agents.types.sketches import Column

ANALYSIS: dict[str, Json] = {
    "groupBy": ["path"], "counts": ["level"], "numbers": ["ms"], "quantiles": [0, 0.5, 0.95, 1],
}  # fmt: skip
PATTERN = r"(?P<at>\S+) (?P<level>[A-Z]+) (?P<path>\S+) (?P<ms>\S+)ms"


def _rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {
            "path": chance.choice(["/a", "/b", "/ü"]),
            "level": chance.choice(["INFO", "WARN"]),
            "ms": round(chance.lognormvariate(3, 1), 3),
        }
        for _ in range(count)
    ]


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class Artifacts:
    """``artifacts_get`` as tool-runner answers it."""

    def __init__(self, held: Mapping[str, bytes]) -> None:
        self.held = held
        self.calls = 0

    async def call(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        raise NotImplementedError

    def call_blocking(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        assert name == "artifacts_get"
        self.calls += 1
        body = self.held.get(str(arguments["key"]))
        if body is None:
            return ToolAnswer(structured={"found": False, "key": arguments["key"]})
        offset, length = arguments["offset"], arguments["length"]
        assert isinstance(offset, int)
        assert isinstance(length, int)
        piece = body[offset : offset + length]
        held: dict[str, Json] = {"found": True, "size": len(body), "offset": offset}
        try:
            held["text"] = piece.decode()
        except UnicodeDecodeError:
            held["data"] = base64.b64encode(piece).decode()
        return ToolAnswer(structured=held)


def test_analyst_counts_what_is_there(root: Path, do: Any) -> None:
    rows = _rows(500)
    _jsonl(root / "a.jsonl", rows)
    found = do("analyst", {"sources": [{"path": "a.jsonl"}], "analysis": ANALYSIS})
    assert (found["rows"], found["unreadable"]) == (500, 0)
    assert [group["key"]["path"] for group in found["groups"]] == ["/a", "/b", "/ü"]
    for group in found["groups"]:
        own = [row for row in rows if row["path"] == group["key"]["path"]]
        values = sorted(row["ms"] for row in own)
        figures = group["numbers"]["ms"]
        assert group["rows"] == figures["count"] == len(own)
        assert group["counts"]["level"]["WARN"] == sum(row["level"] == "WARN" for row in own)
        assert figures["sum"] == math.fsum(values)
        assert figures["mean"] == statistics.fmean(values)
        assert figures["deviation"] == pytest.approx(statistics.stdev(values), rel=1e-12)
        assert figures["quantiles"] == {
            "0": values[0], "0.5": values[math.ceil(len(values) / 2) - 1],
            "0.95": values[math.ceil(len(values) * 0.95) - 1], "1": values[-1],
        }  # fmt: skip
        assert figures["exact"]


def test_merged_shards_equal_one_run_byte_for_byte(root: Path, output_of: Any, do: Any) -> None:
    _jsonl(root / "a.jsonl", _rows(400))
    _jsonl(root / "b.jsonl", _rows(150, seed=2))
    (root / "b.jsonl").write_bytes((root / "b.jsonl").read_bytes()[:-1] + b"\nno json\n\n[1]\n{")
    sources = [{"path": "a.jsonl"}, {"path": "b.jsonl"}]
    asked = {"do": "split", "sources": sources, "analysis": ANALYSIS, "shards": 7}
    shards = do("analyst", asked)["shards"]
    assert len(shards) == 7
    parts = [do("analyst", shard) for shard in shards]
    random.Random(3).shuffle(parts)
    inner = [
        do("analyst", {"outputs": parts[:4], "aggregate": {"kind": "reduce"}}, kind="merge"),
        do("analyst", {"outputs": parts[4:]}, kind="merge"),
    ]
    merged = do("analyst", {"outputs": inner}, kind="merge")
    assert merged == do("analyst", {"sources": sources, "analysis": ANALYSIS})
    assert merged["unreadable"] == 3


def test_artifact_is_read_in_ranges_and_cut_anywhere(
    do: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(300)).encode()
    store = Artifacts({"logs/a": body})
    monkeypatch.setattr("mesh_agents.types.row_sources.RANGE_BYTES", 61)
    whole = {"sources": [{"artifact": "logs/a"}], "analysis": ANALYSIS}
    one = do("analyst", whole, tools=store)
    assert store.calls > len(body) / 61
    assert one == do("analyst", {"sources": [{"text": body.decode()}], "analysis": ANALYSIS})
    shards = do("analyst", {"do": "split", "shards": 5, **whole}, tools=store)["shards"]
    parts = [do("analyst", shard, tools=store) for shard in shards]
    assert do("analyst", {"outputs": parts}, kind="merge") == one
    with pytest.raises(StepFailedError, match="no artifact logs/b"):
        do("analyst", {"sources": [{"artifact": "logs/b"}]}, tools=store)


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text("ab\r ü", max_size=6), max_size=12),
    tail=st.booleans(),
    marks=st.lists(st.integers(0, 80), max_size=4),
)
def test_ranges_that_touch_share_no_line_and_lose_none(
    lines: list[str], tail: bool, marks: list[int]
) -> None:
    from mesh_agents.contract import StepInput
    from mesh_agents.types import row_sources

    text = "\n".join(lines) + ("\n" if tail else "")
    size = len(text.encode())
    if not size:
        return
    step = StepInput(kind="call", payload={}, workdir="/")
    bounds = [0, *sorted(min(mark, size) for mark in marks), size]
    found = [
        line
        for start, end in pairwise(bounds)
        for line in row_sources.lines(
            step, row_sources.Source(text=text, start=start, end=end), None
        )
    ]
    assert found == list(row_sources.lines(step, row_sources.Source(text=text), None))


def test_line_that_is_too_long_is_one_unreadable_row(do: Any, root: Path) -> None:
    long = '{"ms": 1, "x": "' + "y" * (2 * 1024 * 1024) + '"}\n'
    (root / "a.jsonl").write_text('{"ms": 1}\n' + long + '{"ms": 2}\n')
    found = do("analyst", {"sources": [{"path": "a.jsonl"}], "analysis": {"numbers": ["ms"]}})
    assert (found["rows"], found["unreadable"]) == (2, 1)


def test_log_lines_and_csv_come_to_the_same_as_jsonl(root: Path, do: Any) -> None:
    rows = _rows(100)
    _jsonl(root / "a.jsonl", rows)
    (root / "a.log").write_text(
        "".join(f"10:00 {row['level']} {row['path']} {row['ms']}ms done\n" for row in rows)
    )
    with (root / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "level", "ms", "note"])
        writer.writeheader()
        writer.writerows({**row, "note": 'two\nlines, "quoted"'} for row in rows)
    by_jsonl = do("analyst", {"sources": [{"path": "a.jsonl"}], "analysis": ANALYSIS})
    by_log = do(
        "analyst",
        {
            "sources": [{"path": "a.log"}],
            "analysis": {**ANALYSIS, "format": "log", "pattern": PATTERN},
        },
    )
    by_csv = do(
        "analyst", {"sources": [{"path": "a.csv"}], "analysis": {**ANALYSIS, "format": "csv"}}
    )
    assert by_log == by_csv == by_jsonl


def test_values_that_are_no_numbers_are_counted_as_such(do: Any) -> None:
    values = ["1", '"x"', "true", "null", '"2.5"', "1e999", '"nan"', "1e200"]
    text = "{}\n" + "".join(f'{{"n": {value}}}\n' for value in values)
    found = do("analyst", {"sources": [{"text": text}], "analysis": {"numbers": ["n"]}})
    figures = found["groups"][0]["numbers"]["n"]
    assert (figures["count"], figures["sum"]) == (2, 3.5)
    assert figures["invalid"] + found["unreadable"] == 5


def test_where_keeps_rows_that_have_these_values(do: Any) -> None:
    text = '{"a": 1, "n": 1}\n{"a": 2, "n": 5}\n{"n": 7}\n'
    found = do(
        "analyst", {"sources": [{"text": text}], "analysis": {"numbers": ["n"], "where": {"a": 2}}}
    )
    assert found["groups"][0]["numbers"]["n"]["sum"] == 5.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one"),
        ({"sources": [{}]}, "one of path, artifact and text"),
        ({"sources": [{"path": "a", "text": "b"}]}, "one of path, artifact and text"),
        ({"sources": [{"path": "../x"}]}, "not inside"),
        ({"sources": [{"text": "a", "start": 5, "end": 2}]}, "behind its beginning"),
        ({"sources": [{"text": "a", "start": 1}], "analysis": {"format": "csv"}}, "no ranges"),
        ({"sources": [{"text": "a"}], "analysis": {"format": "log"}}, "pattern"),
        ({"sources": [{"text": "a"}], "analysis": {"format": "log", "pattern": "("}}, "pattern"),
        ({"sources": [{"text": "a"}], "analysis": {"format": "log", "pattern": "a"}}, "no groups"),
        ({"sources": [{"text": "a"}], "analysis": {"quantiles": [2]}}, "0..1"),
        ({"sources": [{"text": "a"}], "analysis": {"format": "xml"}}, "Invalid enum"),
        ({"do": "split", "sources": [{"text": "a"}], "shards": 0}, "shards"),
        ({"do": "merge"}, "at least one summary"),
    ],
)
def test_analyst_refuses_with_the_place_named(
    root: Path, do: Any, given: dict, message: str
) -> None:
    with pytest.raises(StepFailedError, match=message) as failed:
        do("analyst", given)
    assert failed.value.type == "input"


def test_summaries_of_different_analyses_are_not_merged(do: Any) -> None:
    one = do("analyst", {"sources": [{"text": '{"a": 1}'}], "analysis": {"numbers": ["a"]}})
    other = do("analyst", {"sources": [{"text": '{"a": 1}'}], "analysis": {"counts": ["a"]}})
    with pytest.raises(StepFailedError, match="different analyses"):
        do("analyst", {"outputs": [one, other]}, kind="merge")


def test_too_many_groups_fail_the_step(do: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "GROUPS_MAX", 3)
    text = "".join(f'{{"a": {n}}}\n' for n in range(5))
    for analysis in ({"groupBy": ["a"]}, {"counts": ["a"]}):
        with pytest.raises(StepFailedError, match="more than 3") as failed:
            do("analyst", {"sources": [{"text": text}], "analysis": analysis})
        assert failed.value.type == "limit"


VALUES = st.lists(
    st.one_of(
        st.floats(-1e140, 1e140), st.integers(-(10**6), 10**6).map(float),
        st.sampled_from([0.0, -0.0, 5e-324, -1.5]),
    ),
    min_size=1, max_size=60,
)  # fmt: skip


@settings(deadline=None)
@given(values=VALUES, cuts=st.lists(st.integers(0, 60), max_size=3), few=st.booleans())
def test_columns_do_not_depend_on_shards(values: list[float], cuts: list[int], few: bool) -> None:
    before = sketches.DISTINCT_MAX
    sketches.DISTINCT_MAX = 5 if few else before
    try:
        whole = Column()
        for value in values:
            whole.add(value)
        merged = Column()
        bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
        for start, end in reversed(list(pairwise(bounds))):
            part = Column()
            for value in reversed(values[start:end]):
                part.add(value)
            merged.merge(part.kept())
        assert merged.kept() == whole.kept()
        assert merged.sum == whole.sum == math.fsum(values)
        assert (merged.mean, merged.deviation) == (whole.mean, whole.deviation)
        order = sorted(values)
        for share in (0.0, 0.3, 0.5, 0.99, 1.0):
            true = order[max(1, math.ceil(share * len(order))) - 1]
            found = merged.quantile(share)
            assert found is not None
            if merged.exact:
                assert found == true
            else:
                assert abs(found - true) <= abs(true) * sketches.RELATIVE_ERROR * 1.001 + 1e-300
    finally:
        sketches.DISTINCT_MAX = before
