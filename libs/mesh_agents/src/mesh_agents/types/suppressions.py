"""Comments that tell a tool to be silent, read once for all tools.

``# noqa: F401`` is written for one tool; the others would go on finding the same thing and outvote
the person who wrote it. So a comment silences its class for every tool on that statement.
"""

import re
from collections.abc import Mapping

from mesh_agents.types.findings import classes

__all__ = ["ALL", "silenced"]

ALL = "*"
"""Every class."""
_NOQA = re.compile(r"#\s*noqa\b(?::\s*([A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*))?", re.IGNORECASE)
_NOSEC = re.compile(r"#\s*nosec\b:?(?:\s*(B[0-9]+(?:[,\s]+B[0-9]+)*))?")
_PYLINT = re.compile(r"#\s*pylint:\s*disable(?:-next)?=([\w\-]+(?:\s*,\s*[\w\-]+)*)")


def silenced(source: str, lines: Mapping[int, int]) -> dict[int, frozenset[str]]:
    """First line of a statement → classes of which nothing shall be said (or ``ALL``).

    Args:
        source: text of the file.
        lines: ``findings.lines_of`` it.
    """
    found: dict[int, frozenset[str]] = {}
    for number, text in enumerate(source.splitlines(), 1):
        if "#" not in text:
            continue
        kinds = _kinds(text)
        if kinds:
            line = lines.get(number, number)
            found[line] = found.get(line, frozenset()) | kinds
    return found


def _kinds(text: str) -> frozenset[str]:
    kinds: set[str] = set()
    for pattern, tool in ((_NOQA, "ruff"), (_NOSEC, "bandit"), (_PYLINT, "pylint")):
        match = pattern.search(text)
        if match is None:
            continue
        if not match.group(1):
            kinds.add(ALL)
            continue
        known = classes(tool)
        rules = re.split(r"[,\s]+", match.group(1).strip())
        kinds.update(known[rule] for rule in rules if rule in known)
    return frozenset(kinds)
