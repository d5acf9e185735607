"""Reads Google-style docstrings: what a function does, and what its parameters mean."""

import inspect
import re

import msgspec

__all__ = ["Doc", "read_doc"]

_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Returns|Return|Yields|Raises|Note|Notes|Example|Examples|"
    r"Attributes|Warning|Warnings|See Also|References|Todo):\s*$"
)
_PARAMETERS = frozenset(("Args", "Arguments", "Parameters"))
_ENTRY = re.compile(r"^\*{0,2}(?P<name>\w+)\s*(?:\((?P<kind>[^()]*)\))?\s*:\s*(?P<text>.*)$")


class Doc(msgspec.Struct, frozen=True):
    """A docstring.

    Attributes:
        text: everything before the first section, paragraphs kept.
        parameters: name → description, on one line.
    """

    text: str = ""
    parameters: dict[str, str] = {}

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.text.partition("\n\n")[0].split())


def read_doc(thing: object) -> Doc:
    """The docstring of a function or class; an empty one where there is none."""
    text = inspect.getdoc(thing) or ""
    before: list[str] = []
    sections: dict[str, list[str]] = {}
    current = before
    for line in text.splitlines():
        heading = _SECTION.match(line)
        if heading is not None:
            current = sections.setdefault(heading[1], [])
        else:
            current.append(line)
    parameters: dict[str, str] = {}
    for name in _PARAMETERS & sections.keys():
        parameters.update(_entries(sections[name]))
    return Doc(text="\n".join(before).strip(), parameters=parameters)


def _entries(lines: list[str]) -> dict[str, str]:
    """``name: text`` and what is indented deeper below it."""
    found: dict[str, list[str]] = {}
    margin = min((_indent(line) for line in lines if line.strip()), default=0)
    words: list[str] | None = None
    for line in lines:
        if not line.strip():
            continue
        entry = _ENTRY.match(line.strip()) if _indent(line) == margin else None
        if entry is not None:
            words = found.setdefault(entry["name"], [])
            words.append(entry["text"])
        elif words is not None:
            words.append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
