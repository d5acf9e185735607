"""Rules of virtual servers that file, registry and gateway share: what is valid, who is chosen.

A definition is checked once, before it is stored or a mesh starts; every problem names its field.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from mcp_proto.contracts.virtuals import (
    Argument,
    VirtualPrompt,
    VirtualResource,
    VirtualServer,
    VirtualTool,
)
from mcp_proto.ids import is_server_name, is_tenant_id
from mcp_proto.limits import NAME_CHARS_MAX
from mcp_proto.names import is_listed_name
from mcp_proto.policy import matches
from mcp_proto.subjects import PLATFORM

__all__ = [
    "DEFINITION_BYTES_MAX",
    "GLOBS_MAX",
    "ITEMS_MAX",
    "Covering",
    "covers",
    "is_glob",
    "pattern_of",
    "shown_name",
    "virtual_problem",
]

ITEMS_MAX = 1_000
"""Items of one virtual server; globs cover more."""
GLOBS_MAX = 100
"""Of them globs: each is tried on everything of its server that no item names."""
DEFINITION_BYTES_MAX = 512 * 1024
"""Largest definition as JSON: every gateway holds all of them."""

_TITLE_CHARS_MAX = 256
_TEXT_CHARS_MAX = 8_192
_URI_CHARS_MAX = 4_096
_ROLES_MAX = 32
_ARGUMENTS_MAX = 128

Item = VirtualTool | VirtualPrompt | VirtualResource
T = TypeVar("T", bound=Item)


def pattern_of(item: Item) -> str:
    """What of its server an item takes: a name, a URI, or a glob."""
    match item:
        case VirtualTool():
            return item.tool
        case VirtualPrompt():
            return item.prompt
        case VirtualResource():
            return item.uri


def is_glob(item: Item) -> bool:
    """Whether an item takes whatever matches; a ``?`` in a URI begins its query."""
    pattern = pattern_of(item)
    return "*" in pattern or ("?" in pattern and not isinstance(item, VirtualResource))


class Covering(Generic[T]):
    """The items of one kind, by what they decide about."""

    def __init__(self, items: Iterable[T]) -> None:
        self._literal: dict[tuple[str, str], list[T]] = {}
        self._globs: dict[str, list[T]] = {}
        for item in items:
            if is_glob(item):
                self._globs.setdefault(item.server, []).append(item)
            else:
                self._literal.setdefault((item.server, pattern_of(item)), []).append(item)

    def of(self, server: str, name: str) -> Sequence[T]:
        """What decides about one thing of a server: every literal item, else the first glob."""
        literal = self._literal.get((server, name))
        if literal is not None:
            return literal
        globs = self._globs.get(server, ())
        return next(((one,) for one in globs if covers(one, name)), ())


def covers(item: Item, name: str) -> bool:
    """Whether a glob takes what its server calls ``name``."""
    # The matcher is that of rules: over the pair, so a server is part of the pattern.
    return matches(f"{item.server}:{pattern_of(item)}", item.server, name)


def shown_name(item: VirtualTool | VirtualPrompt, own: str) -> str:
    """Name under which an item shows what its owner calls ``own``; "" = no other name."""
    return item.name.replace("*", own) if is_glob(item) else item.name


def virtual_problem(definition: VirtualServer) -> str | None:
    """What is wrong with a definition, naming the field; None when it is valid."""
    if not is_server_name(definition.name):
        return (
            f"name: {definition.name[:64]!r} cannot be a name: letters, digits, '_', '.' and '-', "
            "at most 40, no '__'"
        )
    if definition.tenant != PLATFORM and not is_tenant_id(definition.tenant):
        return f"tenant: {definition.tenant[:64]!r} is no tenant id"
    if len(definition.title) > _TITLE_CHARS_MAX:
        return f"title: more than {_TITLE_CHARS_MAX} characters"
    for field in ("description", "instructions"):
        if len(getattr(definition, field)) > _TEXT_CHARS_MAX:
            return f"{field}: more than {_TEXT_CHARS_MAX} characters"
    return (
        _size_problem(definition)
        or _first(_tool_problem(one, f"tools[{n}]") for n, one in enumerate(definition.tools))
        or _first(_prompt_problem(one, f"prompts[{n}]") for n, one in enumerate(definition.prompts))
        or _first(
            _resource_problem(one, f"resources[{n}]") for n, one in enumerate(definition.resources)
        )
        or _twice(definition.tools, "tools")
        or _twice(definition.prompts, "prompts")
    )


def _size_problem(definition: VirtualServer) -> str | None:
    items = (*definition.tools, *definition.prompts, *definition.resources)
    if not items:
        return "tools: a virtual server needs at least one tool, prompt or resource"
    if len(items) > ITEMS_MAX:
        return f"tools: more than {ITEMS_MAX} items"
    if sum(1 for item in items if is_glob(item)) > GLOBS_MAX:
        return f"tools: more than {GLOBS_MAX} globs"
    if len(msgspec.json.encode(definition)) > DEFINITION_BYTES_MAX:
        return f"tools: the definition exceeds {DEFINITION_BYTES_MAX} bytes"
    return None


def _first(problems: Iterable[str | None]) -> str | None:
    return next((one for one in problems if one is not None), None)


def _item_problem(item: Item, where: str, key: str, longest: int) -> str | None:
    if not is_server_name(item.server):
        return f"{where}.server: {item.server[:64]!r} cannot be the name of a server"
    if not 1 <= len(pattern_of(item)) <= longest:
        return f"{where}.{key}: must have 1 to {longest} characters"
    if len(item.title) > _TITLE_CHARS_MAX:
        return f"{where}.title: more than {_TITLE_CHARS_MAX} characters"
    if len(item.description) > _TEXT_CHARS_MAX:
        return f"{where}.description: more than {_TEXT_CHARS_MAX} characters"
    if len(item.roles) > _ROLES_MAX or not all(item.roles):
        return f"{where}.roles: at most {_ROLES_MAX} names of roles, none empty"
    return None


def _name_problem(item: VirtualTool | VirtualPrompt, where: str) -> str | None:
    if not item.name:
        return None
    if is_glob(item):
        if item.name.count("*") != 1:
            return f"{where}.name: with a glob it must hold one '*', which stands for each own name"
        bare = item.name.replace("*", "")
        return None if not bare or is_listed_name(bare) else _bad_name(where)
    return None if is_listed_name(item.name) else _bad_name(where)


def _bad_name(where: str) -> str:
    return f"{where}.name: must be 1 to 64 letters, digits, '_', '.' or '-'"


def _tool_problem(item: VirtualTool, where: str) -> str | None:
    if len(item.arguments) > _ARGUMENTS_MAX:
        return f"{where}.arguments: more than {_ARGUMENTS_MAX}"
    return (
        _item_problem(item, where, "tool", NAME_CHARS_MAX)
        or _name_problem(item, where)
        or _first(
            _argument_problem(one, f"{where}.arguments.{name}")
            for name, one in item.arguments.items()
        )
    )


def _argument_problem(argument: Argument, where: str) -> str | None:
    fixed = argument.value is not msgspec.UNSET
    given = argument.default is not msgspec.UNSET
    if fixed and given:
        return f"{where}: value and default exclude each other"
    if argument.hidden and given:
        return f"{where}: a hidden argument takes a value, not a default"
    if not (fixed or given or argument.hidden):
        return f"{where}: needs value, default or hidden = true"
    return None


def _prompt_problem(item: VirtualPrompt, where: str) -> str | None:
    return _item_problem(item, where, "prompt", NAME_CHARS_MAX) or _name_problem(item, where)


def _resource_problem(item: VirtualResource, where: str) -> str | None:
    problem = _item_problem(item, where, "uri", _URI_CHARS_MAX)
    if problem is None and item.shown_uri:
        if is_glob(item):
            return f"{where}.shown_uri: only for one URI, not for a glob"
        if ":" not in item.shown_uri or len(item.shown_uri) > _URI_CHARS_MAX:
            return f"{where}.shown_uri: must be a URI of at most {_URI_CHARS_MAX} characters"
    return problem


def _twice(items: Sequence[VirtualTool] | Sequence[VirtualPrompt], where: str) -> str | None:
    """Two items that every caller would see under one name: the second could never be reached."""
    seen: dict[str, int] = {}
    for n, item in enumerate(items):
        if is_glob(item) or item.roles:
            continue
        name = item.name or pattern_of(item)
        if name in seen:
            return f"{where}[{n}].name: {name!r} is shown by {where}[{seen[name]}] already"
        seen[name] = n
    return None
