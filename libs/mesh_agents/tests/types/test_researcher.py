"""Search over real files and what tools give."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_agents.contract import Json, StepFailedError, ToolAnswer
from mesh_agents.types import researcher
from mesh_agents.types.bm25 import Index, words_of


class Texts:
    """A tool that gives texts."""

    async def call(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        raise NotImplementedError

    def call_blocking(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        match arguments.get("key"):
            case "minutes":
                return ToolAnswer(structured={"found": True, "text": "a lease was\ntaken over"})
            case "plain":
                return ToolAnswer(text="no word of it")
            case _:
                return ToolAnswer(is_error=True, text="no such key")


@pytest.fixture
def library(root: Path) -> Path:
    (root / "docs").mkdir()
    (root / "docs" / "lease.md").write_text(
        "# Lease\n" + "filler\n" * 30 + "The lease is taken over after its TTL.\n" + "more\n" * 5
    )
    (root / "docs" / "other.md").write_text("A lease.\n" + "words about nothing\n" * 19)
    (root / "code.py").write_text("def readBytes(path): ...\n")
    (root / "picture.png").write_bytes(b"\x89PNG\0\0")
    return root


def test_researcher_ranks_passages_and_shows_lines(library: Path, do: Any) -> None:
    found = do("researcher", {"query": "lease taken over TTL", "context": 1})
    first = found["results"][0]
    assert (first["name"], first["line"]) == ("docs/lease.md", 32)
    assert first["words"] == ["lease", "taken", "over", "ttl"]
    assert [(one["line"], one["text"]) for one in first["snippet"]] == [
        (31, "filler"), (32, "The lease is taken over after its TTL."), (33, "more"),
    ]  # fmt: skip
    assert {one["name"] for one in found["results"]} == {"docs/lease.md", "docs/other.md"}
    assert found["skipped"] == {"picture.png": "binary"}
    assert found["files"] == 3
    scores = [one["score"] for one in found["results"]]
    assert scores == sorted(scores, reverse=True)


def test_researcher_takes_a_prompt_for_its_query(library: Path, output_of: Any) -> None:
    output = output_of("researcher", None, kind="prompt", prompt="read bytes")
    assert output.text.startswith("code.py:1 (")
    assert output.text.endswith("def readBytes(path): ...")


def test_researcher_searches_what_tools_give(root: Path, do: Any) -> None:
    sources = [
        {"tool": "artifacts_get", "arguments": {"key": "minutes"}, "name": "minutes"},
        {"tool": "fs__read", "arguments": {"key": "plain"}},
    ]
    found = do("researcher", {"query": "lease", "sources": sources}, tools=Texts())
    assert [(one["name"], one["line"]) for one in found["results"]] == [("minutes", 1)]
    assert found["files"] == 2
    with pytest.raises(StepFailedError, match="no such key") as failed:
        do("researcher", {"query": "x", "sources": [{"tool": "t"}]}, tools=Texts())
    assert failed.value.type == "tool"


def test_researcher_needs_no_folder_for_sources_alone(
    do: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MESH_AGENT_ROOTS", raising=False)
    sources = [{"tool": "artifacts_get", "arguments": {"key": "minutes"}}]
    assert do("researcher", {"query": "lease", "sources": sources}, tools=Texts())["results"]


def test_researcher_finds_nothing_and_says_so(library: Path, output_of: Any) -> None:
    output = output_of("researcher", {"query": "zebra"})
    assert output.text == "nothing found"
    assert output.structured.results == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"query": ""}, "at least one word"),
        ({"query": "…"}, "at least one word"),
        ({"query": "x", "limit": 0}, "limit"),
        ({"query": "x", "context": 99}, "context"),
        ({"query": "x", "root": ".."}, "not inside"),
        ({"query": "x", "sources": [{"tool": "t"}] * 51}, "at most 50"),
    ],
)
def test_researcher_refuses_with_a_reason(
    library: Path, do: Any, given: dict, message: str
) -> None:
    with pytest.raises(StepFailedError, match=message):
        do("researcher", given, tools=Texts())


def test_researcher_stops_at_its_limits(
    library: Path, do: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StepFailedError, match="in time") as failed:
        do("researcher", {"query": "lease"}, timeout_s=-1)
    assert failed.value.type == "timeout"
    monkeypatch.setattr(researcher, "FILE_BYTES_MAX", 100)
    assert do("researcher", {"query": "lease"})["skipped"]["docs/lease.md"].startswith("larger")
    monkeypatch.setattr(researcher, "TOTAL_BYTES_MAX", 20)
    monkeypatch.setattr(researcher, "FILE_BYTES_MAX", 10_000)
    with pytest.raises(StepFailedError) as failed:
        do("researcher", {"query": "lease"})
    assert failed.value.type == "limit"


def test_words_of_code_have_their_parts() -> None:
    assert words_of("readBytes HTTPServer2 max_size Größe") == [
        "readbytes", "read", "bytes", "httpserver2", "http", "server", "2", "max", "size", "größe",
    ]  # fmt: skip


@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=6), max_size=8),
    st.lists(st.sampled_from("abcxy"), max_size=4),
)
def test_ranking_names_exactly_the_passages_with_a_word(
    passages: list[list[str]], query: list[str]
) -> None:
    ranked = Index(passages).rank(query)
    assert {number for number, _ in ranked} == {
        number for number, words in enumerate(passages) if set(words) & set(query)
    }
    assert all(score > 0 for _, score in ranked)
