"""What is measured: how often the right tool is among the first, and what context it costs."""

import time
from collections.abc import Callable, Sequence

import msgspec
from tests.benchmarks.tool_search.collection import Query, queries, tools

from gateway.core import search_answers, search_tools
from gateway.core.routing import Tool
from gateway.core.search import Index, document

__all__ = ["Rates", "Report", "measure", "rates", "shipped", "substring"]

Ranking = Callable[[str], list[str]]
BYTES_PER_TOKEN = 4
"""No tokenizer is bundled: sizes are bytes of JSON, tokens are bytes / 4, said so in the report."""
MANY = 2_000


class Rates(msgspec.Struct, frozen=True):
    """Share of queries with an acceptable tool among the first 1, 3 and 5."""

    queries: int
    at_1: float
    at_3: float
    at_5: float


class Report(msgspec.Struct, frozen=True):
    """Everything of one run; times in milliseconds, context in bytes."""

    tools: int
    servers: int
    rows: tuple[tuple[str, str, Rates], ...]
    full_bytes: int
    search_bytes: int
    task_bytes: int
    index_ms: float
    index_many_ms: float
    query_ms: float
    query_many_ms: float


def pair(tool: Tool) -> str:
    """How a query of the fixture names a tool."""
    return f"{tool.server}:{tool.name}"


def shipped(collection: Sequence[Tool]) -> Ranking:
    """The ranking of ``tools_search``."""
    index = Index(document(tool.entry) for tool in collection)
    return lambda text: [pair(collection[hit.position]) for hit in index.search(text, 5)]


class _Text(msgspec.Struct):
    description: str = ""


def substring(collection: Sequence[Tool]) -> Ranking:
    """What one would write in an afternoon: how many words of the query the tool contains."""
    texts = [
        f"{tool.listed} {msgspec.json.decode(tool.entry, type=_Text).description}".lower()
        for tool in collection
    ]

    def rank(query: str) -> list[str]:
        asked = query.lower().split()
        scored = [
            (-sum(word in text for word in asked), position) for position, text in enumerate(texts)
        ]
        return [pair(collection[at]) for score, at in sorted(scored)[:5] if score]

    return rank


def rates(rank: Ranking, asked: Sequence[Query]) -> Rates:
    """Hit rates of a ranking."""
    found = [
        next((at for at, one in enumerate(rank(query.text)) if one in query.wanted), 99)
        for query in asked
    ]
    shares = [sum(at < depth for at in found) / len(asked) for depth in (1, 3, 5)]
    return Rates(len(asked), *shares)


def measure() -> Report:
    """Run everything once."""
    collection, asked = tools(), queries()
    halves = (
        ("tuning", [one for one in asked if not one.held_out]),
        ("held out", [one for one in asked if one.held_out]),
    )
    rankings = (("BM25F (shipped)", shipped(collection)), ("substring", substring(collection)))
    rows = tuple(
        (name, half, rates(rank, some)) for half, some in halves for name, rank in rankings
    )
    index, index_ms = _indexed(collection)
    many = [collection[at % len(collection)] for at in range(MANY)]
    index_of_many, index_many_ms = _indexed(many)
    return Report(
        tools=len(collection),
        servers=len({tool.server for tool in collection}),
        rows=rows,
        full_bytes=sum(len(tool.entry) for tool in collection),
        search_bytes=sum(map(len, search_tools.DEFINITIONS.values())),
        task_bytes=_task_bytes(collection, index, asked),
        index_ms=index_ms,
        index_many_ms=index_many_ms,
        query_ms=_query_ms(index, asked),
        query_many_ms=_query_ms(index_of_many, asked),
    )


class _Content(msgspec.Struct):
    text: str


class _Result(msgspec.Struct):
    content: tuple[_Content, ...]


def _task_bytes(collection: Sequence[Tool], index: Index, asked: Sequence[Query]) -> int:
    """Average context of one task: the text of a search and the definition of one tool."""
    total = 0
    for query in asked:
        hits = index.search(query.text, search_tools.LIMIT_DEFAULT)
        result = search_answers.found(collection, index, hits)
        text = msgspec.json.decode(result, type=_Result).content[0].text
        total += len(text.encode())
        total += len(collection[hits[0].position].entry) if hits else 0
    return total // len(asked)


def _indexed(collection: Sequence[Tool]) -> tuple[Index, float]:
    best = float("inf")
    index = Index(())
    for _ in range(3):
        began = time.perf_counter()
        index = Index([document(tool.entry) for tool in collection])
        index.search("warm", 1)  # the list of words is made on the first search
        best = min(best, time.perf_counter() - began)
    return index, best * 1000


def _query_ms(index: Index, asked: Sequence[Query]) -> float:
    took: list[float] = []
    for query in asked:
        began = time.perf_counter()
        index.search(query.text, search_tools.LIMIT_DEFAULT)
        took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2] * 1000
