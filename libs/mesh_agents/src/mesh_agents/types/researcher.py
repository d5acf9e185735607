"""``researcher``: finds passages that answer a query, in files of its roots and in what tools give.

Input (``payload.input``; a ``prompt`` step's text is the query)::

    {"query": "lease takeover", "root": "docs", "files": ["adr"], "suffixes": [".md"], "limit": 10,
     "context": 2, "sources": [{"name": "minutes", "tool": "artifacts_get",
                                "arguments": {"key": "minutes.txt"}}]}

With ``sources`` alone no files are looked at; their text is fetched with the submitter's rights.
Output::

    {"results": [{"name": "adr/0021.md", "line": 12, "score": 7.31, "words": ["lease"],
                  "snippet": [{"line": 11, "text": "…"}, …]}],
     "files": 40, "passages": 310, "skipped": {"big.bin": "binary"}}

Ranking is BM25 over passages of 20 lines; the snippet stands around the line that has most of the
query's words. The same input over the same files gives the same output.
"""

import time
from collections.abc import Sequence

import msgspec

from mesh_agents.contract import AgentType, StepFailedError, StepInput, StepOutput
from mesh_agents.types.bm25 import Index, words_of
from mesh_agents.types.inputs import Input, JsonValue, input_of, refuse
from mesh_agents.types.places import FILE_BYTES_MAX, read_bytes, roots_of, walk

__all__ = ["RESEARCHER", "Query", "Research", "Result", "run"]

PASSAGE_LINES = 20
TOTAL_BYTES_MAX = 16 * 1024 * 1024
"""Text that one step reads; its words take ten times as much memory."""
RESULTS_MAX = 100
CONTEXT_MAX = 10
SOURCES_MAX = 50
QUERY_CHARS_MAX = 2_000
LINE_CHARS_MAX = 400
"""Of a line in a snippet."""


class Source(Input, frozen=True, kw_only=True):
    """A text that a tool gives: its text blocks, or else its structured result as JSON."""

    tool: str
    arguments: dict[str, JsonValue] = msgspec.field(default_factory=dict[str, JsonValue])
    name: str = ""


class Query(Input, frozen=True, kw_only=True):
    """Input; see the module."""

    query: str = ""
    root: str = ""
    files: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    limit: int = 10
    context: int = 2
    sources: tuple[Source, ...] = ()


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a snippet, from 1."""

    line: int
    text: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A passage; ``words`` are those of the query that it has."""

    name: str
    line: int
    score: float
    words: list[str]
    snippet: list[Line]


class Research(msgspec.Struct, frozen=True, kw_only=True):
    """Output; see the module."""

    results: list[Result]
    files: int
    passages: int
    skipped: dict[str, str] = {}


class _Passage(msgspec.Struct, frozen=True):
    name: str
    lines: Sequence[str]
    start: int  # index of its first line


def run(step: StepInput) -> StepOutput:
    """Search; see the module.

    Raises:
        StepFailedError: ``input``, ``limit``, ``timeout``, ``tool`` (a source failed).
    """
    wanted = _query(step)
    until = time.monotonic() + step.timeout_s
    texts, skipped = _texts(step, wanted, until)
    passages: list[_Passage] = []
    for name, text in texts.items():
        lines = text.splitlines()
        passages += [_Passage(name, lines, start) for start in range(0, len(lines), PASSAGE_LINES)]
    words: list[list[str]] = []
    for number, one in enumerate(passages):
        if number % 1_000 == 0:
            _in_time(until)
            step.report(number, len(passages))
        words.append(words_of("\n".join(one.lines[one.start : one.start + PASSAGE_LINES])))
    query = words_of(wanted.query)
    ranked = Index(words).rank(query)[: wanted.limit]
    results = [
        _result(passages[number], set(words[number]), query, score, wanted.context)
        for number, score in ranked
    ]
    research = Research(results=results, files=len(texts), passages=len(passages), skipped=skipped)
    return StepOutput(structured=research, text=_told(results))


def _query(step: StepInput) -> Query:
    given = step.payload.get("input")
    prompt = step.payload.get("prompt")
    wanted = Query() if given is None and prompt else input_of(step, Query)
    if not wanted.query and isinstance(prompt, str):
        wanted = msgspec.structs.replace(wanted, query=prompt)
    if not words_of(wanted.query) or len(wanted.query) > QUERY_CHARS_MAX:
        raise refuse(f"input.query: at least one word, at most {QUERY_CHARS_MAX} characters")
    if not 1 <= wanted.limit <= RESULTS_MAX:
        raise refuse(f"input.limit: 1..{RESULTS_MAX}")
    if not 0 <= wanted.context <= CONTEXT_MAX:
        raise refuse(f"input.context: 0..{CONTEXT_MAX}")
    if len(wanted.sources) > SOURCES_MAX:
        raise refuse(f"input.sources: at most {SOURCES_MAX}")
    return wanted


def _texts(step: StepInput, wanted: Query, until: float) -> tuple[dict[str, str], dict[str, str]]:
    texts: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for number, source in enumerate(wanted.sources):
        name = source.name or f"{source.tool}#{number}"
        if name in texts:
            raise refuse(f"input.sources: two are named {name}")
        texts[name] = _source(step, source, name)
    if not wanted.sources or wanted.files or wanted.root:
        roots = roots_of(step)
        if wanted.root:
            roots = roots.within(wanted.root)
        total = sum(map(len, texts.values()))
        for one in walk(roots, wanted.files, suffixes=wanted.suffixes):
            _in_time(until)
            try:
                content = read_bytes(one, limit=FILE_BYTES_MAX + 1)
            except OSError:
                skipped[one.name] = "unreadable"
                continue
            if b"\0" in content[:8192]:
                skipped[one.name] = "binary"
            elif len(content) > FILE_BYTES_MAX:
                skipped[one.name] = f"larger than {FILE_BYTES_MAX} bytes"
            else:
                total += len(content)
                if total > TOTAL_BYTES_MAX:
                    raise StepFailedError(
                        f"more than {TOTAL_BYTES_MAX} bytes of text", type="limit", retryable=False
                    )
                texts[one.name] = content.decode("utf-8", errors="replace")
    return texts, skipped


def _source(step: StepInput, source: Source, name: str) -> str:
    answer = step.call_tool_blocking(source.tool, source.arguments)
    if answer.is_error:
        raise StepFailedError(f"{name}: {answer.text[:300]}", type="tool")
    held = answer.structured
    # Tools of the mesh that give a text say so in a member of that name.
    if isinstance(held, dict) and isinstance(text := held.get("text"), str):
        return text
    if answer.text or held is msgspec.UNSET:
        return answer.text
    return msgspec.json.format(msgspec.json.encode(held)).decode()


def _in_time(until: float) -> None:
    if time.monotonic() > until:
        raise StepFailedError("the search did not end in time", type="timeout")


def _result(
    passage: _Passage, has: set[str], query: Sequence[str], score: float, context: int
) -> Result:
    lines, start = passage.lines, passage.start
    end = min(start + PASSAGE_LINES, len(lines))
    sought = set(query)
    best = max(
        range(start, end), key=lambda number: (len(sought & set(words_of(lines[number]))), -number)
    )
    return Result(
        name=passage.name,
        line=best + 1,
        score=round(score, 4),
        words=[word for word in dict.fromkeys(query) if word in has],
        snippet=[
            Line(line=number + 1, text=lines[number][:LINE_CHARS_MAX])
            for number in range(max(0, best - context), min(len(lines), best + context + 1))
        ],
    )


def _told(results: Sequence[Result]) -> str:
    if not results:
        return "nothing found"
    return "\n".join(
        f"{one.name}:{one.line} ({one.score:.2f}) "
        + next(entry.text.strip() for entry in one.snippet if entry.line == one.line)
        for one in results
    )


RESEARCHER = AgentType(
    name="researcher",
    description="Searches the files of its roots, and texts that tools give, for passages that "
    "answer a query, and returns them ranked (BM25) with line numbers.",
    capabilities=("research", "search"),
    run=run,
    kinds=frozenset({"call", "prompt"}),
)
