"""From a prompt to a call of a tool, and from its result to chunks of an answer.

Decides only; ``edges.synadia`` speaks the protocol.
"""

from collections.abc import Mapping
from typing import cast

import msgspec

from mcp_proto import agent_protocol as wire
from mcp_proto.agent_protocol import Attachment
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.types.meta import CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION
from mcp_proto.versions import MODERN

__all__ = ["PROMPT_BYTES_MAX", "call_of", "chunks_of", "progress_of", "refusal_of"]

PROMPT_BYTES_MAX = 512 * 1024
"""Largest prompt; advertised to callers, below what a broker takes in one message."""

CHUNK_CHARS = 32 * 1024
"""Text of one response chunk; escaped as badly as can be it still fits a message."""

ATTACHMENT_CHARS_MAX = 512 * 1024
"""Largest attachment, in base64; a larger one is named instead."""

ERROR_CHARS_MAX = 300
"""Longest text in an error header; the whole error stands in the body."""

_PROGRESS_CHARS_MAX = 300
_TOKEN = "prompt"  # noqa: S105 - of progress, not a secret

_ENDINGS = {
    "application/json": "json",
    "application/pdf": "pdf",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "image/gif": "gif",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/webp": "webp",
}

_encode = msgspec.json.Encoder().encode


class _Resource(msgspec.Struct, frozen=True):
    uri: str = ""
    mime_type: str = msgspec.field(name="mimeType", default="")
    text: str | None = None
    blob: str | None = None


class _Block(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""
    data: str = ""
    mime_type: str = msgspec.field(name="mimeType", default="")
    uri: str = ""
    name: str = ""
    resource: _Resource | None = None


class _Result(msgspec.Struct, frozen=True):
    content: tuple[_Block, ...] = ()
    result_type: str = msgspec.field(name="resultType", default="complete")
    is_error: bool = msgspec.field(name="isError", default=False)
    structured_content: msgspec.Raw = msgspec.field(
        name="structuredContent", default=msgspec.Raw(b"")
    )


class _Progress(msgspec.Struct, frozen=True):
    progress: float = 0.0
    total: float | None = None
    message: str = ""


class _Notice(msgspec.Struct, frozen=True):
    method: str = ""
    params: _Progress = _Progress()


_RESULT = msgspec.json.Decoder(_Result)
_NOTICE = msgspec.json.Decoder(_Notice)


def call_of(tool: str, arguments: Mapping[str, str | int | float | bool]) -> bytes:
    """Params of a ``tools/call`` in the modern dialect; the caller can be asked nothing."""
    return _encode(
        {
            "name": tool,
            "arguments": arguments,
            "_meta": {
                PROTOCOL_VERSION: MODERN.value,
                CLIENT_CAPABILITIES: {},
                CLIENT_INFO: {"name": "synadia-agent-protocol", "version": wire.VERSION},
                "progressToken": _TOKEN,
            },
        }
    )


def progress_of(notification: bytes) -> str | None:
    """Status token for a progress notification; None for any other."""
    try:
        notice = _NOTICE.decode(notification)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if notice.method != "notifications/progress":
        return None
    done = notice.params
    share = f"{done.progress:g}" if done.total is None else f"{done.progress:g}/{done.total:g}"
    return f"progress {share} {done.message}".strip()[:_PROGRESS_CHARS_MAX]


def chunks_of(result: bytes, pointer: str = "") -> list[bytes]:
    """The response chunks of a result of a tool.

    Args:
        result: of ``tools/call``.
        pointer: to what of the structured result is the answer (text as it is, else as JSON);
            "" = the content.

    Raises:
        MeshError: ``upstream``, executed: the tool reports an error, asks for input, or has
            nothing at ``pointer``.
    """
    try:
        read = _RESULT.decode(result)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(
            ErrorKind.UPSTREAM, "the tool gave no readable result", outcome=Outcome.EXECUTED
        ) from None
    if read.result_type != "complete":
        raise MeshError(
            ErrorKind.UPSTREAM,
            "the tool asks for input, which a prompt cannot give",
            outcome=Outcome.EXECUTED,
        )
    if read.is_error:
        text = " ".join(block.text for block in read.content if block.text)
        raise MeshError(ErrorKind.UPSTREAM, text or "the tool failed", outcome=Outcome.EXECUTED)
    if pointer:
        return _texts(_text_at(read.structured_content, pointer))
    chunks: list[bytes] = []
    for index, block in enumerate(read.content, 1):
        chunks += _chunks(block, index)
    if not chunks and bytes(read.structured_content):
        chunks = _texts(bytes(read.structured_content).decode())
    return chunks


def _text_at(structured: msgspec.Raw, pointer: str) -> str:
    """What stands at a JSON pointer (RFC 6901), as text."""
    try:
        found: object = msgspec.json.decode(structured)
        for token in pointer[1:].split("/"):
            name = token.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = cast("list[object]", found)[int(name)]
            else:
                found = cast("dict[str, object]", found)[name]
    except (msgspec.DecodeError, LookupError, ValueError, TypeError):
        raise MeshError(
            ErrorKind.UPSTREAM, f"the tool gave nothing at {pointer}", outcome=Outcome.EXECUTED
        ) from None
    return found if isinstance(found, str) else _encode(found).decode()


def _chunks(block: _Block, index: int) -> list[bytes]:
    match block.type:
        case "text":
            return _texts(block.text)
        case "image" | "audio":
            return _attached(f"{block.type}-{index}", block.mime_type, block.data)
        case "resource_link":
            return _texts(f"{block.name}: {block.uri}" if block.name else block.uri)
        case "resource" if block.resource is not None:
            resource = block.resource
            if resource.text is not None:
                return _texts(resource.text)
            return _attached(f"resource-{index}", resource.mime_type, resource.blob or "")
        case _:
            return []


def _texts(text: str) -> list[bytes]:
    return [wire.response(text[at : at + CHUNK_CHARS]) for at in range(0, len(text), CHUNK_CHARS)]


def _attached(name: str, mime_type: str, content: str) -> list[bytes]:
    filename = f"{name}.{_ENDINGS.get(mime_type, 'bin')}"
    if len(content) > ATTACHMENT_CHARS_MAX:
        return [wire.response(f"[{filename} is too large to be attached]")]
    return [wire.response("", (Attachment(filename, content),))]


def refusal_of(error: MeshError) -> tuple[int, str, bytes]:
    """Code, text and body of the error frame (§9.1)."""
    text = "".join(one if " " <= one <= "~" else "?" for one in error.message)
    body = _encode({"error": error.to_object()})
    return error.http_status, text[:ERROR_CHARS_MAX], body
