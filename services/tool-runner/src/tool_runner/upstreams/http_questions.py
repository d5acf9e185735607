"""Requests of a legacy server that come on the stream of a call: its caller is asked.

It is certain whose call such a question belongs to: the stream of the POST says it. What comes on
the GET stream of the session is a matter of ``inquiries``.
"""

import asyncio
from collections.abc import Callable

import msgspec

from mcp_proto.codec import decode_as, encode_error, encode_response
from mcp_proto.errors import ErrorObject, MeshError
from mcp_proto.inputs import ROOTS
from mcp_proto.jsonrpc import Request, RequestId
from tool_runner.upstreams.asks import Answer, begin
from tool_runner.upstreams.http_answers import Exchange
from tool_runner.upstreams.pending import Pending

__all__ = ["QUESTIONS_MAX", "take_question", "withdraw", "withdraw_all"]

QUESTIONS_MAX = 16
"""Open questions of one call; further ones are refused."""

Tell = Callable[[bytes], None]
"""Sends an answer to the server without waiting."""


def take_question(
    question: Request,
    exchange: Exchange | None,
    tell: Tell,
    rooted: Callable[[Pending], None] | None = None,
) -> None:
    """Ask who can answer, and give the server the answer whenever it comes.

    Args:
        question: the server's request.
        exchange: the call on whose stream it came; None = it came outside of any.
        tell: see ``Tell``.
        rooted: called when the server gets the roots of the caller.
    """
    if question.method == "ping":
        tell(encode_response(question.id, b"{}"))
        return
    asks = exchange.request.asks if exchange is not None and exchange.request is not None else None
    if exchange is None or asks is None or len(exchange.questions) >= QUESTIONS_MAX:
        begin(None, question.method, question.params, lambda given: tell(_said(question.id, given)))
        return
    open_one = exchange
    budget = asks

    def answer(given: Answer) -> None:
        open_one.questions.pop(question.id, None)
        if not open_one.questions:
            _run_again(open_one, budget.timeout_s)
        call = open_one.call
        listed = question.method == ROOTS and not isinstance(given, ErrorObject)
        if listed and rooted is not None and call is not None:
            rooted(call)
        tell(_said(question.id, given))

    if exchange.call is not None:
        exchange.call.asked = True
    if exchange.limit is not None and not exchange.limit.expired():
        exchange.limit.reschedule(None)  # people's time does not count
    exchange.questions[question.id] = _nothing
    taken_back = begin(asks, question.method, question.params, answer)
    if question.id in exchange.questions:
        exchange.questions[question.id] = taken_back


def withdraw(params: msgspec.Raw, exchange: Exchange | None) -> None:
    """``notifications/cancelled`` of the server: it no longer wants its answer."""
    if exchange is None:
        return
    try:
        number = decode_as(params, _Cancelled).request_id
    except MeshError:
        return
    taken_back = exchange.questions.pop(number, None)
    if taken_back is not None:
        taken_back()
        asks = exchange.request.asks if exchange.request is not None else None
        if not exchange.questions and asks is not None:
            _run_again(exchange, asks.timeout_s)


def withdraw_all(exchange: Exchange) -> None:
    """The call has ended: nobody need answer any more."""
    while exchange.questions:
        _, taken_back = exchange.questions.popitem()
        taken_back()


def _run_again(exchange: Exchange, timeout_s: float) -> None:
    if exchange.call is not None and exchange.call.questions:
        return  # one that came on the GET stream is still open
    limit = exchange.limit
    if limit is not None and not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time() + timeout_s)


def _said(number: RequestId, given: Answer) -> bytes:
    if isinstance(given, ErrorObject):
        return encode_error(number, given)
    return encode_response(number, given)


def _nothing() -> None:
    """Nothing is open yet."""


class _Cancelled(msgspec.Struct, frozen=True):
    request_id: RequestId = msgspec.field(name="requestId")
