"""Graphs of names: an order, the members of a cycle, what lies before what."""

import heapq
from collections.abc import Mapping, Sequence

__all__ = ["CycleError", "ancestors", "ordered"]


class CycleError(ValueError):
    """No order exists.

    Attributes:
        cycle: names of one cycle in the direction of dependencies, the first again at the end.
        behind: names that are in no cycle and depend on one: they would never be reached.
    """

    def __init__(self, cycle: tuple[str, ...], behind: tuple[str, ...]) -> None:
        super().__init__(" → ".join(cycle))
        self.cycle = cycle
        self.behind = behind


def ordered(needs: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """All names, each behind those it needs, otherwise in the given order.

    Every needed name must be a key.

    Raises:
        CycleError: some need each other.
    """
    names = list(needs)
    place = {name: i for i, name in enumerate(names)}
    missing = {name: len(set(wanted)) for name, wanted in needs.items()}
    wanted_by: dict[str, list[str]] = {name: [] for name in needs}
    for name, wanted in needs.items():
        for one in set(wanted):
            wanted_by[one].append(name)
    found: list[str] = []
    ready = [place[name] for name in names if not missing[name]]
    while ready:
        name = names[heapq.heappop(ready)]
        found.append(name)
        for one in wanted_by[name]:
            missing[one] -= 1
            if not missing[one]:
                heapq.heappush(ready, place[one])
    if len(found) < len(needs):
        left = [name for name in needs if missing[name]]
        raise _cycle(needs, left)
    return tuple(found)


def _cycle(needs: Mapping[str, Sequence[str]], left: Sequence[str]) -> CycleError:
    """Every name that is left needs one that is left: following them ends in a cycle."""
    rest = set(left)
    path: list[str] = []
    at: dict[str, int] = {}
    name = left[0]
    while name not in at:
        at[name] = len(path)
        path.append(name)
        name = next(one for one in needs[name] if one in rest)
    cycle = path[at[name] :]
    turning = {name for name in left if name in _before(needs, name)}
    behind = tuple(name for name in left if name not in turning)
    return CycleError((*cycle, cycle[0]), behind)


def _before(needs: Mapping[str, Sequence[str]], name: str) -> set[str]:
    found: set[str] = set()
    waiting = list(needs[name])
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += needs[one]
    return found


def ancestors(
    needs: Mapping[str, Sequence[str]], order: Sequence[str]
) -> dict[str, frozenset[str]]:
    """Each name with all that lies before it; ``order`` is that of ``ordered``."""
    found: dict[str, frozenset[str]] = {}
    for name in order:
        found[name] = frozenset(needs[name]).union(*(found[one] for one in needs[name]))
    return found
