"""From bytes to the answer of a request: what all ways to a mesh have in common."""

import logging

import msgspec

from mcp_proto.codec import decode_message
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.jsonrpc import ErrorResponse, Message, Notification, Response
from mcp_proto.limits import EDGE_MESSAGE_BYTES, UPSTREAM_MESSAGE_BYTES
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.settings import LOGGER
from mesh_sdk.client.transports.transport import Hear

__all__ = ["ANSWER_BYTES_MAX", "check_size", "read_message", "result_of", "tell"]

ANSWER_BYTES_MAX = UPSTREAM_MESSAGE_BYTES
"""Longest answer taken: a mesh gives at most 10 MiB, another server may give more."""
_log = logging.getLogger(LOGGER)


def check_size(message: bytes) -> None:
    """Refuse what no edge takes, before it is sent.

    Raises:
        MeshCallError: ``too_large``, not executed.
    """
    if len(message) > EDGE_MESSAGE_BYTES:
        raise MeshCallError(
            ErrorKind.TOO_LARGE,
            f"the request has {len(message)} bytes; at most {EDGE_MESSAGE_BYTES} are taken",
            data={"maxBytes": EDGE_MESSAGE_BYTES},
        )


def read_message(data: bytes) -> Message:
    """One message of the other side.

    Raises:
        MeshCallError: ``upstream``, unknown outcome: it is no JSON-RPC.
    """
    try:
        return decode_message(data, ANSWER_BYTES_MAX)
    except MeshError as error:
        raise MeshCallError(
            ErrorKind.UPSTREAM,
            f"the other side sent what is no JSON-RPC: {error.message}",
            outcome=Outcome.UNKNOWN,
        ) from None


def result_of(answer: Response | ErrorResponse, *, http_status: int | None = None) -> msgspec.Raw:
    """The result of an answer.

    Raises:
        MeshCallError: the answer is an error.
    """
    if isinstance(answer, ErrorResponse):
        raise MeshCallError.of_answer(answer.error, http_status=http_status)
    return answer.result


def tell(hear: Hear | None, note: Notification) -> None:
    """Pass a notification on; what hears it may not harm the connection."""
    if hear is None:
        return
    try:
        hear(note)
    except Exception:  # noqa: BLE001 - a broken listener must not end the call
        _log.exception("a listener of %s failed", note.method)
