"""One form for what different tools find, so that they can agree or differ about it."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

import msgspec

from mesh_agents.types.syntax import NotPythonError, parsed

__all__ = ["Finding", "Report", "classes", "electorate", "lines_of", "report_of", "rules_of"]

FINDINGS_MAX = 20_000
"""Findings of one step."""
MESSAGE_CHARS_MAX = 300


class Finding(msgspec.Struct, frozen=True, kw_only=True, rename={"kind": "class"}):
    """One finding.

    Attributes:
        file: relative to its root, ``/``.
        line: first line of the statement, or of the header of a block: tools differ in which line
            of a statement they name.
        kind: ``class`` on the wire; of ``rule_classes.toml``, or ``{tool}/{rule}`` for a rule that
            stands nowhere there.
        rule: the tool's own name.
        tool: who found it.
        message: the tool's words.
        at: line that the tool named.
    """

    file: str
    line: int
    kind: str
    rule: str
    tool: str
    message: str
    at: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Output of ``reviewer`` and ``security``.

    Attributes:
        findings: by file, line, class, tool.
        tools: which ran, with their versions.
        knows: classes that they could have found.
        files: how many were looked at.
        unmapped: ``{tool}/{rule}`` → how often, of rules without a class (not in ``findings``
            unless they were asked for).
        skipped: file → why it was not looked at.
        silenced: findings left out because of a comment.
    """

    findings: list[Finding]
    tools: dict[str, str]
    knows: list[str]
    files: int
    unmapped: dict[str, int] = {}
    skipped: dict[str, str] = {}
    silenced: int = 0


@cache
def _table() -> Mapping[str, Mapping[str, Sequence[str]]]:
    text = files("mesh_agents.types").joinpath("rule_classes.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def classes(tool: str) -> Mapping[str, str]:
    """Rule → class, of one tool."""
    return {rule: kind for kind, tools in _table().items() for rule in tools.get(tool, ())}


def rules_of(tool: str) -> list[str]:
    """The rules of a tool that have a class."""
    return sorted(classes(tool))


def electorate(tools: Iterable[str]) -> dict[str, list[str]]:
    """Class → the tools that know it.

    It is the ``coordination.electorate`` of a vote among agents that declare their tools as
    capabilities.
    """
    present = list(tools)
    table = {kind: [tool for tool in present if tool in known] for kind, known in _table().items()}
    return {kind: known for kind, known in table.items() if known}


class Raw(msgspec.Struct, frozen=True):
    """A finding as its tool gave it."""

    file: str
    line: int
    rule: str
    tool: str
    message: str


def report_of(
    found: Iterable[Raw],
    *,
    lines: Mapping[str, Mapping[int, int]],
    tools: Mapping[str, str],
    looked_at: int,
    unmapped: bool,
    skipped: Mapping[str, str],
) -> Report:
    """Findings with class and line, sorted; ``lines`` is ``lines_of`` by file."""
    kept: list[Finding] = []
    nowhere: Counter[str] = Counter()
    for one in found:
        kind = classes(one.tool).get(one.rule)
        if kind is None:
            kind = f"{one.tool}/{one.rule}"
            nowhere[kind] += 1
            if not unmapped:
                continue
        kept.append(
            Finding(
                file=one.file,
                line=lines.get(one.file, {}).get(one.line, one.line),
                kind=kind,
                rule=one.rule,
                tool=one.tool,
                message=one.message[:MESSAGE_CHARS_MAX],
                at=one.line,
            )
        )
    kept.sort(key=lambda one: (one.file, one.line, one.kind, one.tool, one.at, one.message))
    return Report(
        findings=kept,
        tools=dict(tools),
        knows=sorted({kind for tool in tools for kind in classes(tool).values()}),
        files=looked_at,
        unmapped=dict(sorted(nowhere.items())),
        skipped=dict(skipped),
    )


def lines_of(source: str) -> dict[int, int]:
    """Line → first line of its statement, where that is another one; {} if it does not parse.

    Of a compound statement (``if``, ``def`` …) the header counts, not the body.
    """
    try:
        tree = parsed(source)
    except NotPythonError:
        return {}
    first: dict[int, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            body: list[ast.stmt] = getattr(node, "body", [])
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            # Inner statements come later in the walk, so what is nearest stays.
            first.update((line, node.lineno) for line in range(node.lineno + 1, last + 1))
    return first
