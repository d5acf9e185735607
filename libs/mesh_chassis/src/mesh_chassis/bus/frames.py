"""Bytes of headers, reply frames and error bodies: packed and unpacked here only.

Header blocks of the mesh's own frames are constants or two-line formats, because a call costs two
of them; what other implementations send in another order is read by the general decoder.
"""

import re
from collections.abc import Mapping

import msgspec

from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.limits import HEADER_BYTES_MAX, SUBJECT_BYTES_MAX
from mcp_proto.subjects import ROOT

__all__ = [
    "BOOT",
    "NO_HEADERS",
    "call_block",
    "check_subject",
    "decode_error",
    "decode_headers",
    "encode_error",
    "encode_headers",
    "error_headers",
    "frame_headers",
    "message_id",
    "repliable",
]

BOOT = "Mesh-Boot"
"""Random id of one run of an instance, on ``ack`` frames and ping answers: an instance that died
and came back under its old id answers pings, but no longer knows the calls of its earlier run."""

NO_HEADERS: Mapping[str, str] = {}
_VERSION = "NATS/1.0"
_REASON_CHARS_MAX = 200
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SUBJECT = re.compile(r"[^\s.*>\x00-\x20\x7f]+(?:\.[^\s.*>\x00-\x20\x7f]+)*")
_CREATE_CONSUMER = "$JS.API.CONSUMER.CREATE."
_checked_subjects: set[str] = set()
_CHECKED_MAX = 8192  # memo bound: subjects of a live mesh are few and repeat


def check_subject(subject: str) -> None:
    """Refuse what the broker would take amiss: it closes the connection or matches nonsense.

    Raises:
        MeshError: ``too_large`` beyond 512 bytes, ``params`` for empty tokens, wildcards, blanks.
    """
    if subject in _checked_subjects:
        return
    if len(subject.encode()) > SUBJECT_BYTES_MAX:
        raise MeshError(ErrorKind.TOO_LARGE, f"subject exceeds {SUBJECT_BYTES_MAX} bytes")
    # The filter of a consumer is part of the subject that creates it, wildcards included.
    head, tail = _CREATE_CONSUMER, subject.removeprefix(_CREATE_CONSUMER)
    checked = tail.replace("*", "x").replace(">", "x") if subject.startswith(head) else subject
    if _SUBJECT.fullmatch(checked) is None:
        raise MeshError(ErrorKind.PARAMS, "not a subject that can be published to")
    if len(_checked_subjects) >= _CHECKED_MAX:
        _checked_subjects.clear()
    _checked_subjects.add(subject)


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """A header block.

    Raises:
        MeshError: ``too_large`` beyond 2 KiB, ``request`` for a bad name or a line break.
    """
    block = "".join([_VERSION, *[f"\r\n{name}: {value}" for name, value in headers.items()]])
    if block.count("\n") != len(headers) or block.count("\r") != len(headers):
        raise MeshError(ErrorKind.REQUEST, "line break in a header")
    for name in headers:
        if name not in _known_names:
            _check_name(name)
    data = f"{block}\r\n\r\n".encode()
    if len(data) > HEADER_BYTES_MAX:
        raise MeshError(ErrorKind.TOO_LARGE, f"headers exceed {HEADER_BYTES_MAX} bytes")
    return data


_known_names: set[str] = set()


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise MeshError(ErrorKind.REQUEST, "bad header name")
    if len(_known_names) < _CHECKED_MAX:
        _known_names.add(name)


_CALL = (
    b"%bMesh-Stream: 1\r\nMesh-Req: %b\r\nMesh-Timeout-Ms: %d\r\nMesh-Deadline: %d\r\n"
    b"Mesh-Start-By: %d\r\n%b\r\n"
)
_VARYING_BYTES_MAX = 256
_call_heads: dict[tuple[str, str, str], bytes] = {}


def call_block(
    envelope: RequestEnvelope,
    request_id: str,
    *,
    timeout_ms: int,
    deadline_ms: int,
    start_by_ms: int,
) -> bytes | None:
    """Header block of a call, its unchanging half remembered; None = encode it in full.

    Calls of one caller to one tool repeat method, name and context for minutes.

    Raises:
        MeshError: as ``encode_headers``.
    """
    trace = envelope.traceparent
    if type(envelope) is not RequestEnvelope or envelope.tracestate or not request_id.isalnum():
        return None
    key = (envelope.method, envelope.name, envelope.context)
    head = _call_heads.get(key)
    if head is None:
        method, name, context = key
        fixed = RequestEnvelope(method=method, name=name, context=context).to_headers()
        head = encode_headers(fixed)[:-2]
        if len(_call_heads) >= _CHECKED_MAX:
            _call_heads.clear()
        _call_heads[key] = head
    if len(head) + len(request_id) + len(trace) + _VARYING_BYTES_MAX > HEADER_BYTES_MAX:
        return None
    if trace:
        if not trace.isprintable() or not trace.isascii():
            return None
        tail = f"traceparent: {trace}\r\n".encode()
    else:
        tail = b""
    return _CALL % (head, request_id.encode(), timeout_ms, deadline_ms, start_by_ms, tail)


def decode_headers(block: bytes) -> dict[str, str]:
    """Read a header block; an inline status becomes ``Status``. Malformed lines are skipped."""
    first, _, rest = block.decode("utf-8", "replace").partition("\r\n")
    headers: dict[str, str] = {}
    status = first[len(_VERSION) + 1 : len(_VERSION) + 4]
    if status.isdigit():
        headers["Status"] = status
    for line in rest.split("\r\n"):
        name, found, value = line.partition(":")
        if found:
            headers[name] = value.strip()
    return headers


_CLOSED_TO_REPLIES = (f"{ROOT}.".encode(), b"$")


def repliable(reply: bytes) -> bool:
    """False for a reply subject that would make the answer a request in our name.

    A service may publish to any reply subject it was given; a client could name a subject it has
    no right to itself.
    """
    return not reply.startswith(_CLOSED_TO_REPLIES)


def frame_headers(frame: str, seq: int, extra: Mapping[str, str] = NO_HEADERS) -> bytes:
    """Header block of a reply frame."""
    if not extra:
        return b"NATS/1.0\r\nMesh-Frame: %b\r\nMesh-Seq: %d\r\n\r\n" % (frame.encode(), seq)
    return encode_headers({"Mesh-Frame": frame, "Mesh-Seq": str(seq), **extra})


def error_headers(error: MeshError) -> dict[str, str]:
    """The ADR-32 pair; the public message is cut and made printable ASCII."""
    text = error.message[:_REASON_CHARS_MAX].encode("ascii", "replace").decode()
    printable = "".join(char if char.isprintable() else " " for char in text)
    return {
        "Nats-Service-Error": printable or error.kind.value,
        "Nats-Service-Error-Code": str(error.http_status),
    }


class _ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorObject
    id: str | int | None = None
    jsonrpc: str = "2.0"


class _IdOnly(msgspec.Struct, frozen=True):
    id: str | int | None = None


_encoder = msgspec.json.Encoder()
_error_decoder = msgspec.json.Decoder(_ErrorBody)
_id_decoder = msgspec.json.Decoder(_IdOnly)


def message_id(payload: bytes) -> str | int | None:
    """JSON-RPC id of a request, None when it cannot be read (an error answer still goes out)."""
    try:
        return _id_decoder.decode(payload).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def encode_error(error: MeshError, request_id: str | int | None) -> bytes:
    """JSON-RPC error body."""
    return _encoder.encode(_ErrorBody(error=error.to_object(), id=request_id))


def decode_error(payload: bytes, code: str | None) -> MeshError:
    """Rebuild the error of an ``err`` frame or of a reply with the ADR-32 pair.

    Args:
        payload: the JSON-RPC error body; a foreign service may send anything.
        code: value of ``Nats-Service-Error-Code``.
    """
    status = int(code) if code is not None and code.isascii() and code.isdigit() else None
    try:
        error = _error_decoder.decode(payload).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return MeshError(ErrorKind.INTERNAL, "the service answered with an unreadable error")
    return MeshError.from_object(error, http_status=status)
