"""Which operations of a document become tools, and what these are called."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, cast

import msgspec

from mcp_proto.limits import LISTED_NAME_CHARS_MAX
from mcp_proto.server_types.openapi import OpenApiSettings
from tool_runner.server_types.openapi.document import METHODS
from tool_runner.server_types.openapi.references import References, mapping

__all__ = ["Chosen", "chosen"]

_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that becomes a tool: ``item`` = its path item, ``operation`` = itself."""

    tool: str
    method: str
    path: str
    item: Mapping[str, Any]
    operation: Mapping[str, Any]


def chosen(
    references: References, document: Mapping[str, Any], settings: OpenApiSettings
) -> Iterable[Chosen]:
    """The operations that the settings choose, in the order of the document.

    Raises:
        DocumentError: a path item refers to nothing.
    """
    taken: set[str] = set()
    for path, item in mapping(document.get("paths")).items():
        followed = references.follow(item)
        for method in METHODS:
            if method not in followed:
                continue
            operation = mapping(followed[method])
            tool = _tool_name(operation, method, path, taken)
            taken.add(tool)
            one = Chosen(tool=tool, method=method, path=path, item=followed, operation=operation)
            if _is_wanted(one, settings):
                yield one


def _is_wanted(one: Chosen, settings: OpenApiSettings) -> bool:
    included = not settings.include or any(_matches(one, each) for each in settings.include)
    return included and not any(_matches(one, each) for each in settings.exclude)


def _matches(one: Chosen, pattern: str) -> bool:
    if pattern.startswith("tag:"):
        tags = one.operation.get("tags")
        named = cast("list[object]", tags) if isinstance(tags, list) else []
        return any(fnmatchcase(str(tag), pattern[4:]) for tag in named)
    if " " in pattern:
        method, _, path = pattern.partition(" ")
        return fnmatchcase(one.method, method.lower()) and fnmatchcase(one.path, path.strip())
    operation_id = str(one.operation.get("operationId", one.tool))
    return fnmatchcase(one.tool, pattern) or fnmatchcase(operation_id, pattern)


def _tool_name(operation: Mapping[str, Any], method: str, path: str, taken: set[str]) -> str:
    said = operation.get("operationId")
    text = said if isinstance(said, str) and said else f"{method}{path}"
    name = _FOREIGN.sub("_", text).strip("_.") or method
    if len(name) > LISTED_NAME_CHARS_MAX:
        digest = sha256(text.encode()).hexdigest()[:8]
        name = f"{name[: LISTED_NAME_CHARS_MAX - 9]}_{digest}"
    if name not in taken:
        return name
    number = 2
    while (other := f"{name[: LISTED_NAME_CHARS_MAX - 5]}_{number}") in taken:
        number += 1
    return other
