"""Reads the envelope of a modern request: what ``_meta`` says about version and caller.

The mere presence of ``io.modelcontextprotocol/protocolVersion`` makes a request modern; whether
its envelope is complete is a second question with its own error.
"""

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.members import pick
from mcp_proto.types.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION, Meta
from mcp_proto.versions import MODERN

__all__ = ["Head", "check_envelope", "checked", "enveloped", "head_of", "is_enveloped", "meta_of"]

_MARK = b"protocolVersion"
_LARGE_BYTES = 64 * 1024


class _Params(msgspec.Struct, frozen=True):
    meta: Meta | None = msgspec.field(name="_meta", default=None)


class Head(msgspec.Struct, frozen=True, gc=False):
    """What routing reads of ``params``, in one pass over them.

    Attributes:
        meta: reserved members of ``_meta``; None = absent or null.
        name: member ``name`` as it stands; ``uri`` and ``task_id`` likewise. Of a member that
            occurs twice the last; the server that owns the request refuses such params.
    """

    meta: Meta | None = msgspec.field(name="_meta", default=None)
    name: msgspec.Raw = ABSENT
    uri: msgspec.Raw = ABSENT
    task_id: msgspec.Raw = msgspec.field(name="taskId", default=ABSENT)

    def member(self, name: str) -> msgspec.Raw:
        """A routing member by its name on the wire; ``ABSENT`` when it is not there."""
        return self.name if name == "name" else self.uri if name == "uri" else self.task_id


_params = msgspec.json.Decoder(_Params)
_heads = msgspec.json.Decoder(Head)
_NOTHING = Meta()
_NO_HEAD = Head()


def head_of(params: bytes | msgspec.Raw) -> Head:
    """What routing reads of ``params``.

    Raises:
        MeshError: as ``meta_of``.
    """
    if not memoryview(params).nbytes:
        return _NO_HEAD
    try:
        return _heads.decode(params)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeshError(ErrorKind.PARAMS, f"invalid _meta: {error}") from None
    except RecursionError:
        raise MeshError(ErrorKind.PARAMS, "invalid _meta: nested too deep") from None


def meta_of(params: bytes | msgspec.Raw) -> Meta:
    """The reserved members of ``params._meta``; an absent or null ``_meta`` has none.

    Raises:
        MeshError: ``params`` when ``params`` or ``_meta`` is no object, or a reserved member
            has the wrong type.
    """
    if not memoryview(params).nbytes:
        return _NOTHING
    try:
        return _params.decode(params).meta or _NOTHING
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeshError(ErrorKind.PARAMS, f"invalid _meta: {error}") from None
    except RecursionError:
        raise MeshError(ErrorKind.PARAMS, "invalid _meta: nested too deep") from None


def is_enveloped(params: bytes | msgspec.Raw) -> bool:
    """Whether the request carries the modern envelope, complete and well-formed or not."""
    try:
        return enveloped(params) is not None
    except MeshError:
        return True


def enveloped(params: bytes | msgspec.Raw) -> Meta | None:
    """The envelope of a modern request, complete or not, unchecked; None = it has none.

    Raises:
        MeshError: as ``meta_of``, for one that is there and malformed.
    """
    if memoryview(params).nbytes <= _LARGE_BYTES:
        data = bytes(params)
        # Nearly all legacy requests end here: without the word, and without an escape that could
        # spell it, the member is not there. Large ones are parsed sooner than searched.
        if data.find(_MARK) < 0 and data.find(b"\\u") < 0:
            return None
    try:
        meta = meta_of(params)
    except MeshError:
        if _names_version(params):
            raise
        return None
    return None if meta.protocol_version is None else meta


def _names_version(params: bytes | msgspec.Raw) -> bool:
    """For a ``_meta`` with a member of a wrong type: its sender still meant the modern era."""
    try:
        meta = pick(params, "_meta").get("_meta")
        return meta is not None and PROTOCOL_VERSION in pick(meta, PROTOCOL_VERSION)
    except MeshError:
        return False


def check_envelope(params: bytes | msgspec.Raw) -> Meta:
    """The complete envelope of a modern request.

    Returns:
        Meta with ``protocol_version`` equal to the modern revision and ``client_capabilities``
        holding an object.

    Raises:
        MeshError: ``params`` when ``_meta`` or a required member is missing or malformed;
            ``version`` when the version is not served, with ``supported`` and ``requested``.
    """
    return checked(meta_of(params))


def checked(meta: Meta) -> Meta:
    """The same of an envelope that was read already.

    Raises:
        MeshError: as ``check_envelope``.
    """
    if meta.protocol_version is None:
        raise MeshError(ErrorKind.PARAMS, f"_meta must carry {PROTOCOL_VERSION}")
    if meta.protocol_version != MODERN:
        raise MeshError(
            ErrorKind.VERSION,
            "unsupported protocol version",
            data={"supported": [MODERN.value], "requested": meta.protocol_version[:64]},
        )
    if bytes(memoryview(meta.client_capabilities)[:1]) != b"{":
        raise MeshError(ErrorKind.PARAMS, f"_meta must carry the object {CLIENT_CAPABILITIES}")
    if bytes(memoryview(meta.client_info)[:1]) not in (b"{", b""):
        raise MeshError(ErrorKind.PARAMS, "clientInfo in _meta must be an object")
    return meta
