"""Bytes to messages and back: the only place where JSON-RPC is parsed or written.

Decoding is strict about the envelope and blind to what it carries. It accepts nothing that two
readers could understand differently: no duplicate member, no id that changes on the way back.
Every ``MeshError`` raised here has ``request_id`` set when the id could still be read, so that
an edge can answer the right call.
"""

from typing import TypeVar

import msgspec

from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.framing import leading_id
from mcp_proto.jsonrpc import (
    ABSENT,
    BATCH_ITEMS_MAX,
    ENVELOPE_MEMBERS_MAX,
    ID_CHARS_MAX,
    ID_MAX,
    ID_MIN,
    METHOD_CHARS_MAX,
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
)
from mcp_proto.limits import EDGE_MESSAGE_BYTES
from mcp_proto.members import Pairs, TooManyMembersError, pairs, pick, remove, splice
from mcp_proto.rim import check_rim

__all__ = [
    "check_rim",
    "decode_as",
    "decode_batch",
    "decode_message",
    "encode",
    "encode_error",
    "encode_notification",
    "encode_request",
    "encode_response",
    "is_batch",
    "pick",
    "remove",
    "request_parts",
    "splice",
]

T = TypeVar("T")

_ENVELOPE = frozenset(
    ("jsonrpc", "id", "method", "params", "result", "error", "tenant_id", "user_id")
)
_VERSION = b'"2.0"'
_id = msgspec.json.Decoder(RequestId)
_str = msgspec.json.Decoder(str)
_error = msgspec.json.Decoder(ErrorObject)
_items = msgspec.json.Decoder(list[msgspec.Raw])
_grammar = msgspec.json.Decoder(msgspec.Raw)
_encoder = msgspec.json.Encoder()


def decode_message(data: bytes, max_bytes: int = EDGE_MESSAGE_BYTES) -> Message:
    """Check and decode one message as it came from outside, of at most ``max_bytes``.

    Raises:
        MeshError: ``too_large``, ``parse`` or ``request``; with ``request_id`` where readable.
    """
    try:
        check_rim(data, max_bytes)
        plain = _plain_request(data)
        if plain is not None:
            return plain
        members = _read_members(data)
    except MeshError as error:
        # Without its id the peer would wait for an answer that never comes.
        error.request_id = leading_id(data)
        raise
    return _decode_members(members)


class _Plain(msgspec.Struct, frozen=True, gc=False):
    jsonrpc: msgspec.Raw
    id: msgspec.Raw
    method: str
    params: msgspec.Raw


_plain = msgspec.json.Decoder(_Plain)
_PLAIN_BYTES = len(b'{"jsonrpc":"2.0","id":,"method":"","params":}')


def _plain_request(data: bytes) -> Request | None:
    """The usual request in one pass; None = look closer.

    A struct decoder does not see duplicate or unknown members, but these four members, written
    compactly and once, have exactly one length: whatever else were there would make it longer.
    """
    try:
        found = _plain.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    method = found.method
    params = memoryview(found.params)
    size = _PLAIN_BYTES + memoryview(found.id).nbytes + len(method) + params.nbytes
    if (
        size != len(data)
        or bytes(found.jsonrpc) != _VERSION
        or not (method.isascii() and 0 < len(method) <= METHOD_CHARS_MAX)
        or params[0] != _BRACE
    ):
        return None
    request_id, problem = _read_id(found.id)
    if request_id is None or problem is not None:
        return None
    return Request(method, request_id, found.params)


_BRACE = ord("{")


def _decode_members(members: Pairs) -> Message:
    fields = {str(key): value for key, value in members.items()}
    request_id, problem = _read_id(fields.get("id"))
    if problem is None:
        problem = _envelope_problem(members, fields)
    if problem is None:
        try:
            return _assemble(fields, request_id)
        except MeshError as error:
            error.request_id = request_id
            raise
    error = MeshError(ErrorKind.REQUEST, problem)
    # Of two ids neither is known to be the request's.
    error.request_id = None if problem == _TWO_IDS else request_id
    raise error


_TWO_IDS = "member id occurs twice"


def _read_members(data: bytes | msgspec.Raw) -> Pairs:
    try:
        return pairs(data, ENVELOPE_MEMBERS_MAX)
    except TooManyMembersError:
        raise MeshError(
            ErrorKind.REQUEST, f"message has more than {ENVELOPE_MEMBERS_MAX} members"
        ) from None
    except msgspec.ValidationError:
        # Raised at the first byte that is no object; what follows may not even be JSON.
        _check_grammar(data)
        what = "message is an array" if bytes(data).lstrip()[:1] == b"[" else "not an object"
        raise MeshError(ErrorKind.REQUEST, f"{what}; expected one JSON-RPC object") from None
    except msgspec.DecodeError as error:
        raise MeshError(ErrorKind.PARSE, f"malformed JSON: {error}") from None
    except UnicodeDecodeError:
        raise MeshError(ErrorKind.PARSE, "message is not valid UTF-8") from None
    except RecursionError:
        raise MeshError(ErrorKind.REQUEST, "message is nested too deep") from None


def _check_grammar(data: bytes | msgspec.Raw) -> None:
    try:
        _grammar.decode(data)
    except msgspec.DecodeError as error:
        raise MeshError(ErrorKind.PARSE, f"malformed JSON: {error}") from None
    except RecursionError:
        raise MeshError(ErrorKind.REQUEST, "message is nested too deep") from None


def _read_id(raw: msgspec.Raw | None) -> tuple[RequestId | None, str | None]:
    """The id, and what is wrong with it; a null id reads as None without a problem."""
    if raw is None:
        return None, None
    try:
        value = _id.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, None if bytes(raw) == b"null" else "id must be a string or an integer"
    if isinstance(value, int):
        if ID_MIN <= value <= ID_MAX:
            return value, None
        return None, "id must fit in 64 bits"
    if len(value) > ID_CHARS_MAX:
        return None, f"id exceeds {ID_CHARS_MAX} characters"
    return value, None


def _envelope_problem(members: Pairs, fields: dict[str, msgspec.Raw]) -> str | None:
    """What makes the envelope unreadable or ambiguous, as public text."""
    if len(fields) != len(members):
        seen: set[str] = set()
        for key in members:
            name = str(key)
            if name in seen and name in _ENVELOPE:
                return f"member {name} occurs twice"
            seen.add(name)
    version = fields.get("jsonrpc")
    if version is None or bytes(version) != _VERSION:
        return 'member jsonrpc must be "2.0"'
    if ("method" in fields) + ("result" in fields) + ("error" in fields) != 1:
        return "expected exactly one of method, result and error"
    return None


def _assemble(fields: dict[str, msgspec.Raw], request_id: RequestId | None) -> Message:
    method = fields.get("method")
    if method is None:
        return _answer(fields, request_id)
    name = _text(method, "method")
    if not 0 < len(name) <= METHOD_CHARS_MAX:
        raise MeshError(ErrorKind.REQUEST, f"method must have 1 to {METHOD_CHARS_MAX} characters")
    params = fields.get("params", ABSENT)
    if bytes(memoryview(params)[:1]) not in _PARAMS_START:
        # null is what some old clients send for none; a scalar is nobody's params.
        if bytes(params) != b"null":
            raise MeshError(ErrorKind.REQUEST, "params must be an object")
        params = ABSENT
    if request_id is None:
        if "id" in fields:
            raise MeshError(ErrorKind.REQUEST, "id must not be null")
        return Notification(name, params)
    if len(fields) > 3 and ("tenant_id" in fields or "user_id" in fields):
        return Request(
            name,
            request_id,
            params,
            _text(fields["tenant_id"], "tenant_id") if "tenant_id" in fields else msgspec.UNSET,
            _text(fields["user_id"], "user_id") if "user_id" in fields else msgspec.UNSET,
        )
    return Request(name, request_id, params)


_PARAMS_START = (b"{", b"[", b"")


def _answer(fields: dict[str, msgspec.Raw], request_id: RequestId | None) -> Message:
    if "result" in fields:
        if request_id is None:
            raise MeshError(ErrorKind.REQUEST, "a response needs the id of its request")
        return Response(request_id, fields["result"])
    try:
        return ErrorResponse(request_id, _error.decode(fields["error"]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MeshError(ErrorKind.REQUEST, "member error is malformed") from None


def _text(raw: msgspec.Raw, name: str) -> str:
    try:
        return _str.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.REQUEST, f"{name} must be a string") from None


def is_batch(data: bytes) -> bool:
    """Whether the message is an array (revision 2025-03-26 only)."""
    return data[:64].lstrip()[:1] == b"["


def decode_batch(data: bytes, max_bytes: int = EDGE_MESSAGE_BYTES) -> list[Message | MeshError]:
    """Decode an array of messages, each by itself: one bad item does not spoil the others.

    Raises:
        MeshError: as ``decode_message``, or ``request`` when the array is empty, longer than
            ``BATCH_ITEMS_MAX`` or no array.
    """
    check_rim(data, max_bytes)
    _check_grammar(data)
    try:
        items = _items.decode(data)
    except msgspec.ValidationError:
        raise MeshError(ErrorKind.REQUEST, "expected an array of messages") from None
    if not 0 < len(items) <= BATCH_ITEMS_MAX:
        raise MeshError(
            ErrorKind.REQUEST, f"a batch holds 1 to {BATCH_ITEMS_MAX} messages, not {len(items)}"
        )
    decoded: list[Message | MeshError] = []
    for item in items:
        try:
            decoded.append(_decode_members(_read_members(item)))
        except MeshError as error:
            decoded.append(error)
    return decoded


_decoders: dict[type, msgspec.json.Decoder[object]] = {}


def decode_as(
    data: bytes | msgspec.Raw, kind: type[T], *, error: ErrorKind = ErrorKind.PARAMS
) -> T:
    """Decode a value that the caller owns; empty bytes count as ``{}``.

    Args:
        data: JSON bytes.
        kind: a Struct of this library (its decoder is made once and kept).
        error: kind of the error raised; its public text names the path of the bad member.

    Raises:
        MeshError: the bytes do not fit ``kind``.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(data if memoryview(data).nbytes else b"{}")  # type: ignore[return-value]
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise MeshError(error, f"invalid content: {cause}") from None
    except RecursionError:
        raise MeshError(error, "invalid content: nested too deep") from None


def encode(value: object) -> bytes:
    """Compact JSON of any Struct or plain value; NaN and infinities become null."""
    return _encoder.encode(value)


_methods: dict[str, bytes] = {}
_METHODS_MAX = 500  # memo bound; the five revisions know about 50 names


def _method(name: str) -> bytes:
    quoted = _methods.get(name)
    if quoted is None:
        quoted = _encoder.encode(name)
        if len(_methods) < _METHODS_MAX:
            _methods[name] = quoted
    return quoted


def encode_request(method: str, request_id: RequestId, params: bytes | msgspec.Raw = b"") -> bytes:
    """Write a request; ``params`` are JSON bytes taken as they are, empty = none."""
    # One join: each ``+`` would copy a large body once more.
    return b"".join(request_parts(method, request_id, params))


def request_parts(
    method: str, request_id: RequestId, params: bytes | msgspec.Raw = b""
) -> tuple[bytes | memoryview, ...]:
    """``encode_request`` in pieces; large params are not copied."""
    data = memoryview(params)
    return (
        b'{"jsonrpc":"2.0","id":',
        _encoder.encode(request_id),
        b',"method":',
        _method(method),
        b',"params":' if data.nbytes else b"",
        data,
        b"}",
    )


def encode_notification(method: str, params: bytes | msgspec.Raw = b"") -> bytes:
    """Write a notification; ``params`` as in ``encode_request``."""
    data = bytes(params)
    head = b',"params":' if data else b""
    return b"".join((b'{"jsonrpc":"2.0","method":', _method(method), head, data, b"}"))


def encode_response(request_id: RequestId, result: bytes | msgspec.Raw) -> bytes:
    """Write a successful answer; ``result`` is JSON bytes taken as they are."""
    return b"".join(
        (
            b'{"jsonrpc":"2.0","id":',
            _encoder.encode(request_id),
            b',"result":',
            bytes(result),
            b"}",
        )
    )


def encode_error(request_id: RequestId | None, error: MeshError | ErrorObject) -> bytes:
    """Write a failed answer; ``request_id`` None is written as null."""
    body = error.to_object() if isinstance(error, MeshError) else error
    return b"".join(
        (
            b'{"jsonrpc":"2.0","id":',
            _encoder.encode(request_id),
            b',"error":',
            _encoder.encode(body),
            b"}",
        )
    )
