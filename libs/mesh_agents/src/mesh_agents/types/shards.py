"""Tests cut into shards that take about as long: longest first, each to the shortest shard."""

import heapq
import statistics
from collections.abc import Mapping, Sequence

__all__ = ["balanced"]

_UNKNOWN_S = 1.0


def balanced(
    tests: Sequence[str], durations: Mapping[str, float], shards: int
) -> list[tuple[list[str], float]]:
    """Each shard's tests in the order given, with its expected seconds; no shard is empty.

    A test of unknown duration counts as the median of the known ones (1 s if none is known).
    """
    known = [durations[test] for test in tests if test in durations]
    unknown = statistics.median(known) if known else _UNKNOWN_S
    place = {test: number for number, test in enumerate(tests)}
    count = max(1, min(shards, len(place)))
    heap = [(0.0, number) for number in range(count)]
    filled: list[list[str]] = [[] for _ in range(count)]
    takes = {test: durations.get(test, unknown) for test in place}
    for test in sorted(place, key=lambda test: (-takes[test], place[test])):
        load, number = heapq.heappop(heap)
        filled[number].append(test)
        # A test that takes no time still takes a place, or one shard would get them all.
        heapq.heappush(heap, (load + max(takes[test], 1e-6), number))
    loads = {number: load for load, number in heap}
    return [
        (sorted(tests, key=place.__getitem__), loads[number])
        for number, tests in enumerate(filled)
        if tests
    ]
