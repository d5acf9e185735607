"""What came back from a server: its result untouched, or its error as it gave it."""

from collections.abc import Mapping

import msgspec

from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.limits import EDGE_MESSAGE_BYTES
from mcp_proto.members import pick, splice
from mcp_proto.types.meta import SERVER_INFO

__all__ = ["UPSTREAM_INFO", "AnsweredError", "Signature", "result_of"]

UPSTREAM_INFO = "mesh/upstreamInfo"
"""Where the upstream's own ``serverInfo`` goes: in what a client gets, ours is the gateway's."""


_LARGE_BYTES = 64 * 1024


class AnsweredError(MeshError):
    """An error that the server itself gave: code, message and data travel as they are."""

    def __init__(self, answer: ErrorObject) -> None:
        known = MeshError.from_object(answer)
        foreign = known.kind is ErrorKind.INTERNAL
        super().__init__(
            ErrorKind.UPSTREAM if foreign else known.kind,
            answer.message,
            data=known.data,
            retry_after_s=known.retry_after_s,
            outcome=Outcome.EXECUTED if foreign else known.outcome,
        )
        self.answer = answer

    def to_object(self) -> ErrorObject:
        """The error as the server gave it."""
        return self.answer


class _Answer(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"")
    error: ErrorObject | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


def result_of(body: bytes, server: str) -> msgspec.Raw:
    """The result in a JSON-RPC response of a server.

    Raises:
        AnsweredError: it holds an error.
        MeshError: ``upstream``, executed, when it cannot be read; ``too_large``, executed, when
            no edge can give it: runners store what is, but not every server has a runner.
    """
    if len(body) > EDGE_MESSAGE_BYTES:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the result of server {server} exceeds {EDGE_MESSAGE_BYTES} bytes",
            data={"server": server, "maxBytes": EDGE_MESSAGE_BYTES},
            outcome=Outcome.EXECUTED,
        )
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unusable(server, "gave an unreadable answer") from None
    if answer.error is not None:
        raise AnsweredError(answer.error)
    if not memoryview(answer.result).nbytes:
        raise _unusable(server, "gave neither result nor error")
    return answer.result


def _unusable(server: str, what: str) -> MeshError:
    return MeshError(
        ErrorKind.UPSTREAM,
        f"server {server} {what}",
        data={"server": server},
        outcome=Outcome.EXECUTED,
    )


class Signature:
    """Writes the gateway's ``serverInfo`` into results.

    Args:
        info: the gateway's ``Implementation`` object as JSON.
    """

    def __init__(self, info: bytes) -> None:
        self._info = info
        self._meta = b'"_meta":{"%b":%b}' % (SERVER_INFO.encode(), info)

    def sign(self, result: bytes | msgspec.Raw, server: str) -> bytes:
        """The result with our ``serverInfo``, the upstream's beside it, and a ``resultType``.

        The usual result of a server (complete, without ``_meta``) costs one concatenation.

        Raises:
            MeshError: ``upstream`` when it is no object.
        """
        if type(result) is not bytes or len(result) > _LARGE_BYTES:
            return self._sign_parsed(result, server)
        data = result
        try:
            # On the path of every call: ``find`` takes half the time of ``in``.
            if (
                data.startswith(COMPLETE_HEAD)
                and data.find(b'"_meta"') < 0
                and data.find(b"\\u") < 0
            ):
                return b"%b%b,%b" % (COMPLETE_HEAD, self._meta, data[len(COMPLETE_HEAD) :])
            return self._spliced(data, pick(data, "_meta", "resultType"))
        except MeshError:
            raise _unusable(server, "gave a result that is no object") from None

    def _sign_parsed(self, result: bytes | msgspec.Raw, server: str) -> bytes:
        """The same by a parser: of a large result faster than a search, and one copy."""
        try:
            found = pick(result, "_meta", "resultType")
            data, cut = memoryview(result), len(COMPLETE_HEAD)
            if bytes(data[:cut]) == COMPLETE_HEAD and "_meta" not in found:
                return b"".join((COMPLETE_HEAD, self._meta, b",", data[cut:]))
            return self._spliced(result, found)
        except MeshError:
            raise _unusable(server, "gave a result that is no object") from None

    def _spliced(self, data: bytes | msgspec.Raw, found: Mapping[str, msgspec.Raw]) -> bytes:
        own = {SERVER_INFO: self._info}
        meta = found.get("_meta")
        if meta is not None and bytes(meta) != b"null":
            theirs = pick(meta, SERVER_INFO).get(SERVER_INFO)
            if theirs is not None:
                own[UPSTREAM_INFO] = bytes(theirs)
        else:
            meta = msgspec.Raw(b"{}")
        members = {"_meta": splice(meta, own)}
        if "resultType" not in found:
            members["resultType"] = b'"complete"'
        return splice(data, members)
