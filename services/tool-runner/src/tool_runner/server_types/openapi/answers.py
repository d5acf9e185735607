"""What an API answered, as the result of a tool.

A status below 300 is a result, one below 500 a refusal that a model can act on, anything else a
fault of the API. A body that is not what the document promises is said to be so, with the body:
strict clients would throw it away, and then nobody knew that the call was made.
"""

import base64
from collections.abc import Mapping

import msgspec

from mcp_proto.codec import encode
from mcp_proto.errors import MeshError, Outcome
from mcp_proto.types.content import AudioContent, EmbeddedResource, ImageContent
from tool_runner.core.promises import Promise
from tool_runner.core.toolbox import Block, ToolResult, failure, success, told
from tool_runner.server_types.openapi.operations import Operation
from tool_runner.upstreams.http_failures import failed

__all__ = ["Answer", "result_of"]

EXCERPT_CHARS = 2_000
"""How much of a refusal a model is shown."""
FAULT_CHARS = 300
_JSON_STARTS = (b"{", b"[")
_TEXTUAL = ("+xml", "/xml", "/javascript", "/x-www-form-urlencoded", "yaml", "/x-ndjson", "/jsonl")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A response; ``media_type`` in lower case without parameters, "" = it has none."""

    status: int
    reason: str
    media_type: str
    charset: str
    retry_after: str
    body: bytes

    @staticmethod
    def of(status: int, reason: str, headers: Mapping[str, str], body: bytes) -> "Answer":
        """From what came over the wire."""
        media_type, _, more = headers.get("Content-Type", "").partition(";")
        charset = ""
        for part in more.split(";"):
            key, _, value = part.strip().partition("=")
            if key.lower() == "charset":
                charset = value.strip("\"' ")
        return Answer(
            status=status,
            reason=reason[:64],
            media_type=media_type.strip().lower(),
            charset=charset,
            retry_after=headers.get("Retry-After", "")[:64],
            body=body,
        )

    @property
    def is_json(self) -> bool:
        """Whether it says, or without a word shows, that it is JSON."""
        if not self.media_type:
            return self.body.lstrip()[:1] in _JSON_STARTS
        return self.media_type == "application/json" or self.media_type.endswith("+json")

    @property
    def is_text(self) -> bool:
        """Whether it is text, JSON included."""
        if self.media_type.startswith("text/") or self.media_type.endswith(_TEXTUAL):
            return True
        return self.is_json

    def text(self, chars_max: int = 0) -> str:
        """The body as text, cut at ``chars_max``; 0 = whole."""
        body = self.body[: 4 * chars_max] if chars_max else self.body
        try:
            text = body.decode(self.charset or "utf-8", errors="replace")
        except LookupError:
            text = body.decode(errors="replace")
        if not chars_max:
            return text
        text = text.strip()
        return text if len(text) <= chars_max else text[:chars_max] + "…"


def result_of(server: str, operation: Operation, promise: Promise, answer: Answer) -> ToolResult:
    """The result of a call.

    Args:
        server: name of the server, for errors.
        operation: that was called.
        promise: its output schema.
        answer: what came back.

    Raises:
        MeshError: ``upstream``: the API failed (5xx), or what it wrote cannot be read.
    """
    if answer.status >= 500:
        raise failed(
            server, f"failed{_status(answer)}{_shown(answer, FAULT_CHARS)}", Outcome.UNKNOWN
        )
    if not 200 <= answer.status < 300:
        wait = f" Retry after: {answer.retry_after}." if answer.retry_after else ""
        return failure(f"The API refused{_status(answer)}.{wait}{_shown(answer, EXCERPT_CHARS)}")
    if answer.is_json and answer.body.strip():
        return _json(server, operation, promise, answer)
    if operation.output_schema is not None:
        return _unpromised(answer, "the answer is no JSON")
    if not answer.body:
        return told(f"Done{_status(answer)}; the API answered without content.")
    if answer.is_text:
        return told(answer.text())
    return ToolResult(result_type="complete", content=(_binary(server, operation, answer),))


def _json(server: str, operation: Operation, promise: Promise, answer: Answer) -> ToolResult:
    body = answer.body
    if answer.charset.lower().replace("-", "") not in {"", "utf8", "usascii"}:
        body = answer.text().encode()
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(server, f"answered with JSON that cannot be read ({error})") from None
    problem = promise.problem(value)
    if problem is not None:
        return _unpromised(answer, problem)
    return success(body.strip()) if isinstance(value, dict) else told(body.decode())


def _unpromised(answer: Answer, problem: str) -> ToolResult:
    shown = answer.text(EXCERPT_CHARS) if answer.is_text else f"{len(answer.body)} bytes"
    return failure(
        f"The API did what was asked{_status(answer)}, do not ask again; but its answer is not "
        f"what its document promises ({problem}). It answered: {shown or 'nothing'}"
    )


def _binary(server: str, operation: Operation, answer: Answer) -> Block:
    data = base64.b64encode(answer.body).decode()
    media_type = answer.media_type or "application/octet-stream"
    if media_type.startswith("image/"):
        return ImageContent(data=data, mime_type=media_type)
    if media_type.startswith("audio/"):
        return AudioContent(data=data, mime_type=media_type)
    uri = f"openapi://{server}/{operation.tool}"
    resource = encode({"uri": uri, "mimeType": media_type, "blob": data})
    return EmbeddedResource(resource=msgspec.Raw(resource))


def _unreadable(server: str, what: str) -> MeshError:
    return failed(server, what, Outcome.EXECUTED)


def _status(answer: Answer) -> str:
    return f" (HTTP {answer.status}{f' {answer.reason}' if answer.reason else ''})"


def _shown(answer: Answer, chars: int) -> str:
    text = answer.text(chars) if answer.is_text else ""
    return f" It said: {text}" if text else ""
