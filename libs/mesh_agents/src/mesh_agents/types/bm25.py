"""BM25 over passages of text, in the thirty lines that it takes.

rank-bm25 and bm25s bring numpy (60 MB) and rank no better on words (ADR 0021 measured both).
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["Index", "words_of"]

K1 = 1.2
B = 0.75
_WORD = re.compile(r"[^\W_]+")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def words_of(text: str) -> list[str]:
    """Words in lower case; those of code also in their parts (``readBytes`` → also read, bytes)."""
    found: list[str] = []
    for match in _WORD.finditer(text):
        word = match.group()
        found.append(word.lower())
        if word.isascii() and not word.islower():
            parts = [part.lower() for part in _PARTS.findall(word)]
            if len(parts) > 1:
                found.extend(parts)
    return found


class Index:
    """Passages, ranked by how well they answer a query."""

    def __init__(self, passages: Sequence[Sequence[str]]) -> None:
        self._length = [len(words) for words in passages]
        self._mean = (sum(self._length) / len(passages)) if passages else 0.0
        self._postings: dict[str, list[tuple[int, int]]] = {}
        for number, words in enumerate(passages):
            for word, count in Counter(words).items():
                self._postings.setdefault(word, []).append((number, count))

    def rank(self, query: Sequence[str]) -> list[tuple[int, float]]:
        """Number of each passage that has a word of the query, with its score, best first."""
        scores: dict[int, float] = {}
        size = len(self._length)
        for word in dict.fromkeys(query):
            postings = self._postings.get(word, [])
            rarity = math.log(1 + (size - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, count in postings:
                pivot = K1 * (1 - B + B * self._length[number] / self._mean)
                gain = rarity * count * (K1 + 1) / (count + pivot)
                scores[number] = scores.get(number, 0.0) + gain
        return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
