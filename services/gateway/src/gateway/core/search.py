"""Finding tools by words: BM25F over what their definitions say, pure and without a library.

A tool is five short fields, and they do not weigh the same: its name says most, the description of
an argument least. Lengths are compared with fixed pivots instead of averages of the collection, so
the ``Document`` of a definition is made once and shared by every view that shows the tool; only
how rare a word is (idf) belongs to a view. A view has at most 2,000 tools: looking a word up in
2,000 small dictionaries is faster than keeping an inverted index fresh.

Why not a library, and what each part is worth in hits: docs/adr/0021-tool-search.md.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

from gateway.core.search_words import SYNONYMS, term_of

__all__ = ["QUERY_TERMS_MAX", "Document", "Hit", "Index", "document", "terms_of"]

QUERY_TERMS_MAX = 32
"""Words of a query that count; a query longer than that is a text, not a question."""
PREFIX_CHARS_MIN = 3
PREFIX_TERMS_MAX = 24
"""Words a prefix may stand for."""
FIELD_CHARS_MAX = 1_000
"""Read of each field; real descriptions go on with examples and warnings."""
DETAIL_CHARS_MAX = 400
"""Read of the description of one argument."""
ARGUMENTS_MAX = 64
"""Arguments of a tool that are read."""
SCHEMA_DEPTH_MAX = 4

_K1 = 1.2
_ARGUMENT, _DETAIL = 3, 4
_PROSE_FIELDS = frozenset((2, 4))
"""Fields in order: name, title, description, names of arguments, their descriptions and enums."""
_WEIGHTS = (5.0, 2.0, 2.0, 1.0, 0.5)
_PIVOTS = (4.0, 3.0, 12.0, 6.0, 40.0)
"""Usual length of each field in words (medians of the fixture); longer ones count less."""
_B = (0.5, 0.5, 0.75, 0.75, 0.75)
_PREFIX = 0.5
_SYNONYM = 0.5

_NAMES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_]+")
"""Words of names: a capital begins one, so do the capitals behind which no small letter is."""
_PROSE = re.compile(r"[a-z]+|[0-9]+|[^\W\d_]+")
"""Words of text in lower case: ``GitHub`` is one there."""


class Document(msgspec.Struct, frozen=True, weakref=True):
    """Words of one definition, each with its weight; ``required`` are its required arguments."""

    weights: dict[str, float]
    title: str
    description: str
    required: tuple[str, ...]


class Hit(msgspec.Struct, frozen=True):
    """A tool found: its position in the view, and a score that only compares within one search."""

    position: int
    score: float


class _Schema(msgspec.Struct):
    properties: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    required: tuple[str, ...] = ()
    description: str = ""
    enum: tuple[object, ...] = ()
    items: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Definition(msgspec.Struct, rename="camel"):
    name: str = ""
    title: str = ""
    description: str = ""
    input_schema: msgspec.Raw = msgspec.Raw(b"{}")
    annotations: msgspec.Raw = msgspec.Raw(b"{}")


class _Annotations(msgspec.Struct):
    title: str = ""


class _Plain(msgspec.Struct, rename="camel"):
    """What is left of a definition that a strict reader refuses."""

    name: str = ""


_definition = msgspec.json.Decoder(_Definition)
_plain = msgspec.json.Decoder(_Plain)
_schema = msgspec.json.Decoder(_Schema)
_annotations = msgspec.json.Decoder(_Annotations)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def name_words(text: str) -> list[str]:
    """The words of names, in lower case (``getUser_byId`` → get user by id)."""
    found: list[str] = _NAMES.findall(text)
    return " ".join(found).lower().split()


def prose_words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _PROSE.findall(text.lower())


def terms_of(query: str) -> list[str]:
    """What a query asks for: stems of its words, each once, at most ``QUERY_TERMS_MAX``.

    ``createIssue`` asks for the whole and for its parts, since a query may hold names.
    """
    asked = [*prose_words(query), *name_words(query)]
    found = dict.fromkeys(term for term in map(term_of, asked) if term)
    return list(found)[:QUERY_TERMS_MAX]


def document(entry: bytes) -> Document:
    """Read one definition as it is listed, its server in its name.

    What cannot be read of it is left out, so that a strange schema hides no tool.
    """
    try:
        tool = _definition.decode(entry)
    except _UNREADABLE:
        try:
            tool = _Definition(name=_plain.decode(entry).name)
        except _UNREADABLE:
            tool = _Definition()
    title = tool.title
    if not title and b'"title"' in memoryview(tool.annotations).tobytes():
        title = _title(tool.annotations)
    fields: list[list[str]] = [[tool.name], [title], [tool.description], [], []]
    required = _read_schema(tool.input_schema, fields, SCHEMA_DEPTH_MAX)
    return Document(_weighted(fields), title, tool.description, required)


def _title(annotations: msgspec.Raw) -> str:
    try:
        return _annotations.decode(annotations).title
    except _UNREADABLE:
        return ""


def _read_schema(raw: msgspec.Raw, fields: list[list[str]], depth: int) -> tuple[str, ...]:
    """Collect names and descriptions of arguments; returns the required ones of the root."""
    try:
        schema = _schema.decode(raw)
    except _UNREADABLE:
        return ()
    details = fields[_DETAIL]
    if schema.description:
        details.append(schema.description[:DETAIL_CHARS_MAX])
    if schema.enum:
        details += [value[:64] for value in schema.enum[:ARGUMENTS_MAX] if isinstance(value, str)]
    if not depth:
        return schema.required
    if schema.properties is not msgspec.UNSET:
        for name, inner in list(schema.properties.items())[:ARGUMENTS_MAX]:
            fields[_ARGUMENT].append(name[:64])
            _read_schema(inner, fields, depth - 1)
    if schema.items is not msgspec.UNSET:
        _read_schema(schema.items, fields, depth - 1)
    return schema.required


def _weighted(fields: list[list[str]]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for field, texts in enumerate(fields):
        text = " ".join(texts)[:FIELD_CHARS_MAX]
        found = prose_words(text) if field in _PROSE_FIELDS else name_words(text)
        length = len(found) / _PIVOTS[field]
        each = _WEIGHTS[field] / (1 - _B[field] + _B[field] * length)
        for term in map(term_of, found):
            if term:
                weights[term] = weights.get(term, 0.0) + each
    return weights


class Index:
    """The documents of one view, in the order of its tools."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents: Sequence[Document] = tuple(documents)
        self._vocabulary: list[str] | None = None
        self._idf: dict[str, float] = {}

    def search(self, query: str, limit: int, among: Sequence[int] | None = None) -> list[Hit]:
        """The best tools for a query, best first; equal scores in the order of the view.

        Args:
            query: words; their order does not matter.
            limit: how many at most.
            among: positions to look at; None = all.
        """
        scores: dict[int, float] = {}
        for term in terms_of(query):
            best: dict[int, float] = {}
            for variant, share in self._variants(term):
                self._add(variant, share, best, among)
            for position, score in best.items():
                scores[position] = scores.get(position, 0.0) + score
        ranked = sorted(scores.items(), key=lambda one: (-one[1], one[0]))
        return [Hit(position, round(score, 3)) for position, score in ranked[:limit]]

    def _add(
        self, term: str, share: float, best: dict[int, float], among: Sequence[int] | None
    ) -> None:
        """Let a term count where it counts for more than another variant did."""
        idf = self._rarity(term) * share
        if idf <= 0:
            return
        documents = self.documents
        for position in range(len(documents)) if among is None else among:
            weight = documents[position].weights.get(term)
            if weight is not None:
                score = idf * weight / (weight + _K1)
                if score > best.get(position, 0.0):
                    best[position] = score

    def _variants(self, term: str) -> list[tuple[str, float]]:
        found = {term: 1.0}
        for other in SYNONYMS.get(term, ()):
            found.setdefault(other, _SYNONYM)
        if len(term) >= PREFIX_CHARS_MIN:
            vocabulary = self._words()
            start = bisect_left(vocabulary, term)
            for other in vocabulary[start : start + PREFIX_TERMS_MAX]:
                if not other.startswith(term):
                    break
                found.setdefault(other, _PREFIX)
        return list(found.items())

    def _rarity(self, term: str) -> float:
        idf = self._idf.get(term)
        if idf is None:
            count = sum(1 for one in self.documents if term in one.weights)
            total = len(self.documents)
            idf = math.log(1 + (total - count + 0.5) / (count + 0.5)) if count else 0.0
            if count:  # bounded by the words that the view has
                self._idf[term] = idf
        return idf

    def _words(self) -> list[str]:
        if self._vocabulary is None:
            self._vocabulary = sorted({term for one in self.documents for term in one.weights})
        return self._vocabulary
