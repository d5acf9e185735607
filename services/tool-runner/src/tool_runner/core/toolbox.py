"""Native tools as data: what a tool is, how a name is found, whether arguments fit.

Arguments are checked here against the very schema that is listed, with a compiled validator, so
that list and check cannot drift apart. A failed check is a tool *result* with ``isError``
(MCP, "Error handling": the model shall read it and try again); an unknown tool is a protocol
error. jsonschema-rs was chosen over jsonschema: the same 2020-12 drafts at 0.2 µs instead of 13.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

import jsonschema_rs
import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import TooManyMembersError, pairs
from mcp_proto.tool_spec import ToolSpec
from mcp_proto.types.content import AudioContent, EmbeddedResource, ImageContent, ResourceLink

__all__ = ["Block", "ToolResult", "Toolbox", "failure", "success", "told"]

_LARGE_BYTES = 256 * 1024
PROBLEM_CHARS_MAX = 400
"""Longest text about a failed check: the validator quotes the offending value in full."""
_EMPTY = b"{}"


class _Text(msgspec.Struct, frozen=True, tag="text", tag_field="type"):
    text: str


Block = _Text | ImageContent | AudioContent | EmbeddedResource | ResourceLink


class ToolResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A complete ``tools/call`` result of the bus; encode it as it is."""

    result_type: str
    content: tuple[Block, ...]
    structured_content: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    is_error: bool = False


def success(structured: bytes) -> ToolResult:
    """A result whose text is its structured content, as MCP asks for the sake of old clients."""
    return ToolResult(
        result_type="complete",
        content=(_Text(structured.decode()),),
        structured_content=msgspec.Raw(structured),
    )


def told(text: str) -> ToolResult:
    """A result that is a text, of a tool that promises no structured content."""
    return ToolResult(result_type="complete", content=(_Text(text),))


def failure(text: str) -> ToolResult:
    """A tool error: the call itself worked, what it asked for did not."""
    return ToolResult(result_type="complete", content=(_Text(text),), is_error=True)


class _Validator(Protocol):
    def is_valid(self, instance: object, /) -> bool: ...
    def iter_errors(self, instance: object, /) -> Iterable[jsonschema_rs.ValidationError]: ...


class Toolbox:
    """All native tools of a runner by name, with one compiled validator each."""

    def __init__(self, specs: Iterable[ToolSpec]) -> None:
        self._validators: dict[str, _Validator] = {}
        self._texts: dict[str, frozenset[str]] = {}
        for spec in specs:
            if spec.name in self._validators:
                raise ValueError(f"two native tools are named {spec.name}")
            self._validators[spec.name] = jsonschema_rs.Draft202012Validator(
                dict(spec.input_schema)
            )
            self._texts[spec.name] = _free_texts(spec.input_schema)

    def problem(self, name: str, arguments: bytes | msgspec.Raw) -> str | None:
        """What is wrong with the arguments of a tool, as public text; None = they fit.

        Args:
            name: tool name.
            arguments: JSON bytes; empty counts as ``{}``.

        Raises:
            MeshError: ``params`` for an unknown tool or bytes that are not JSON.
        """
        validator = self._validators.get(name)
        if validator is None:
            raise MeshError(ErrorKind.PARAMS, f"unknown tool: {name}")
        try:
            if memoryview(arguments).nbytes > _LARGE_BYTES:
                value = _outline(arguments, self._texts[name])
            else:
                value = msgspec.json.decode(arguments or _EMPTY)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(ErrorKind.PARAMS, f"arguments cannot be read: {error}") from None
        if validator.is_valid(value):
            return None
        first = next(iter(validator.iter_errors(value)))
        path = "/".join(str(part) for part in first.instance_path)
        text = f"{path}: {first.message}" if path else first.message
        if len(text) > PROBLEM_CHARS_MAX:
            text = text[:PROBLEM_CHARS_MAX] + "…"
        return f"Invalid arguments for {name}: {text}"


def _free_texts(schema: Mapping[str, object]) -> frozenset[str]:
    """Members that may be any text, so that a large one need not be decoded to be checked."""
    if not schema.keys() <= _PLAIN_OBJECT:
        return frozenset()
    members = schema.get("properties")
    if not isinstance(members, Mapping):
        return frozenset()
    found = cast("Mapping[str, object]", members)
    return frozenset(
        name
        for name, one in found.items()
        if isinstance(one, Mapping) and one.get("type") == "string" and one.keys() <= _PLAIN_TEXT
    )


def _outline(arguments: bytes | msgspec.Raw, texts: frozenset[str]) -> object:
    """Large arguments for the check: a large text that may be any is empty here.

    Whoever decodes it afterwards still finds what is wrong inside the text itself.
    """
    try:
        found = pairs(arguments, _MEMBERS_MAX)
    except (msgspec.ValidationError, TooManyMembersError):
        found = None
    if found is None or len({str(key) for key in found}) < len(found):
        return msgspec.json.decode(arguments)
    value: dict[str, object] = {}
    for key, raw in found.items():
        name, view = str(key), memoryview(raw)
        free = name in texts and view.nbytes > _LARGE_BYTES and bytes(view[:1]) == b'"'
        value[name] = "" if free else msgspec.json.decode(raw)
    return value


_MEMBERS_MAX = 64
_PLAIN_OBJECT = frozenset(("$schema", "type", "properties", "required", "additionalProperties"))
_PLAIN_TEXT = frozenset(("type", "title", "description"))
