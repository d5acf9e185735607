"""What the search tools are asked and what they answer, as bytes to bytes."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from gateway.core.routing import Tool
from gateway.core.search import Document, Hit, Index, terms_of
from gateway.core.search_tools import (
    CALL,
    DESCRIBE,
    DESCRIBE_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    NAMES,
    QUERY_CHARS_MAX,
    SEARCH,
    SERVER,
)
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick, splice

__all__ = [
    "Refused",
    "call_params",
    "describe_arguments",
    "described",
    "found",
    "search_arguments",
]

T = TypeVar("T")

DESCRIBE_BYTES_MAX = 1024 * 1024
"""Definitions of one answer; a name left out for it is said, and may be asked for alone."""
SHORT_CHARS_MAX = 200
"""Of a description in a search result: enough to choose by, and twenty of them stay short."""


class _Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: str
    limit: float = LIMIT_DEFAULT
    server: str = ""


class _Describe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    names: tuple[str, ...]


class _Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Found(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    server: str
    description: str
    score: float
    required_arguments: tuple[str, ...]


class _Answer(msgspec.Struct, frozen=True):
    tools: tuple[_Found, ...]


_search = msgspec.json.Decoder(_Search)
_describe = msgspec.json.Decoder(_Describe)
_call = msgspec.json.Decoder(_Call)


class Refused(Exception):  # noqa: N818 - an answer to the model, not a fault
    """The arguments do not fit: a tool result with ``isError``, for the model to read."""

    def result(self) -> bytes:
        """The result object."""
        return _result(str(self), None, error=True)


def _read(params: bytes | msgspec.Raw) -> msgspec.Raw:
    return pick(params, "arguments").get("arguments", msgspec.Raw(b"{}"))


def search_arguments(params: bytes | msgspec.Raw) -> tuple[str, int, str]:
    """Query, limit and server of a ``tools_search``.

    Raises:
        Refused: they do not fit.
    """
    asked = _decoded(_search, _read(params), SEARCH)
    if len(asked.query) > QUERY_CHARS_MAX:
        raise Refused(f"query: at most {QUERY_CHARS_MAX} characters")
    if asked.limit != int(asked.limit) or not 1 <= asked.limit <= LIMIT_MAX:
        raise Refused(f"limit: a whole number from 1 to {LIMIT_MAX}")
    if not terms_of(asked.query):
        raise Refused("query: say in a few words what the tool should do")
    return asked.query, int(asked.limit), asked.server


def describe_arguments(params: bytes | msgspec.Raw) -> tuple[str, ...]:
    """Names of a ``tools_describe``, each once.

    Raises:
        Refused: they do not fit.
    """
    names = tuple(dict.fromkeys(_decoded(_describe, _read(params), DESCRIBE).names))
    if not 1 <= len(names) <= DESCRIBE_MAX:
        raise Refused(f"names: 1 to {DESCRIBE_MAX} tool names")
    return names


def call_params(params: bytes | msgspec.Raw) -> tuple[str, bytes]:
    """The tool that a ``tools_call`` names, and the params of the direct call it stands for.

    Everything beside name and arguments stays: ``_meta``, ``inputResponses``, ``task``.

    Raises:
        Refused: the arguments do not fit.
        MeshError: ``params`` when it names one of the three tools themselves.
    """
    asked = _decoded(_call, _read(params), CALL)
    if asked.name in NAMES or asked.name.removeprefix(f"{SERVER}:") in NAMES:
        raise MeshError(ErrorKind.PARAMS, f"{CALL} does not call {asked.name[:64]}")
    if bytes(memoryview(asked.arguments)[:1]) != b"{":
        raise Refused("arguments: a JSON object")
    own = {"name": msgspec.json.encode(asked.name), "arguments": bytes(asked.arguments)}
    return asked.name, splice(params, own)


def _decoded(decoder: msgspec.json.Decoder[T], arguments: msgspec.Raw, tool: str) -> T:
    try:
        return decoder.decode(arguments)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"Invalid arguments for {tool}: {error}") from None


def found(tools: Sequence[Tool], index: Index, hits: Iterable[Hit]) -> bytes:
    """Result of a ``tools_search``."""
    shown = tuple(_shown(tools[hit.position], index.documents[hit.position], hit) for hit in hits)
    if not shown:
        text = "No tool matches. Try other words, or fewer."
    else:
        text = "\n".join(_line(number, one) for number, one in enumerate(shown, 1))
    return _result(text, msgspec.json.encode(_Answer(shown)))


def _shown(tool: Tool, known: Document, hit: Hit) -> _Found:
    text = " ".join(known.description[: 4 * SHORT_CHARS_MAX].split())
    if len(text) > SHORT_CHARS_MAX:
        text = text[: SHORT_CHARS_MAX - 1].rsplit(" ", 1)[0] + "…"
    return _Found(
        name=tool.listed,
        server=tool.server,
        description=text,
        score=hit.score,
        required_arguments=known.required,
    )


def _line(number: int, one: _Found) -> str:
    needs = f" (needs {', '.join(one.required_arguments)})" if one.required_arguments else ""
    return f"{number}. {one.name}{needs}: {one.description}"


def described(tools: Sequence[Tool], unknown: Sequence[str]) -> bytes:
    """Result of a ``tools_describe``: the definitions byte for byte, as they are listed."""
    entries: list[bytes] = []
    omitted: list[str] = []
    room = DESCRIBE_BYTES_MAX
    for tool in tools:
        if entries and len(tool.entry) > room:
            omitted.append(tool.listed)
            continue
        entries.append(tool.entry)
        room -= len(tool.entry)
    structured = b'{"tools":[%b]' % b",".join(entries)
    for name, values in (("unknown", list(unknown)), ("omitted", omitted)):
        if values:
            structured += b',"%b":%b' % (name.encode(), msgspec.json.encode(values))
    structured += b"}"
    return _result(structured.decode(), structured)


def _result(text: str, structured: bytes | None, *, error: bool = False) -> bytes:
    content = msgspec.json.encode([{"type": "text", "text": text}])
    members = b'"content":%b' % content
    if structured is not None:
        members += b',"structuredContent":%b' % structured
    if error:
        members += b',"isError":true'
    return COMPLETE_HEAD + members + b"}"
