"""Words as the tool search compares them: stems, words that say nothing, words that mean the same.

The stemmer is light on purpose: it makes ``creates``, ``created``, ``creating`` and ``creation``
one, and leaves names of products alone often enough. Synonyms are verbs and things that tools are
named by; a pair is here because it raised the hit rate on the tuning half of the evaluation
(tests/benchmarks/tool_search), not because it seemed a good idea.
"""

__all__ = ["STOP_WORDS", "SYNONYMS", "stem", "term_of"]

_STOP = (
    "a an the of in on at to for from by with and or is are was be as it its this that these those "
    "i me my we you your do does did can could should would will may what which who how when "
    "if into out up some any all each there here please want need"
)
STOP_WORDS = frozenset(_STOP.split())

TERMS_MAX = 20_000
"""Words remembered; a collection of 500 real tools has 5,000."""
_CHARS_MIN = 3


class _Terms(dict[str, str]):
    """A memo read by ``[]``: half of the time to index a definition goes through here."""

    def __missing__(self, word: str) -> str:
        if len(self) >= TERMS_MAX:
            self.clear()
        term = self[word] = "" if word in STOP_WORDS else stem(word)
        return term


term_of = _Terms().__getitem__
"""What a word in lower case is compared by: its stem, or "" when it says nothing."""


def stem(word: str) -> str:
    """The stem of a word in lower case; short words and numbers are their own."""
    if len(word) <= _CHARS_MIN or not word.isascii() or word.isdigit():
        return word
    word = _singular(word)
    for ending, left in (("ing", 3), ("ed", 3), ("ion", 4)):
        if word.endswith(ending) and len(word) - len(ending) >= left:
            word = word[: -len(ending)]
            if word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    return word[:-1] if word.endswith("e") and len(word) > _CHARS_MIN else word


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


_GROUPS = (
    "create make new add",
    "get read fetch retrieve open view",
    "search find query look lookup",
    "answer response reply",
    "run execute evaluate",
    "folder directory",
    "email mail gmail inbox",
    "ticket issue bug",
    "meeting event appointment",
)


def _pairs() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for group in _GROUPS:
        stems = [stem(word) for word in group.split()]
        for one in stems:
            found.setdefault(one, {}).update((other, None) for other in stems if other != one)
    return {one: tuple(others) for one, others in found.items()}


SYNONYMS = _pairs()
"""Stem → stems that may stand for it."""
