"""How a connection to a server hands on what that server asks of its client in mid-call.

A legacy server sends requests of its own (``elicitation/create``, ``sampling/createMessage``,
``roots/list``). The connection knows which call such a request belongs to; who made that call can
answer it, and is reached through the call's ``Request.asks``. ``ping`` and everything else that
is no question to a person, a model or a client is answered by the connection itself.

While a question is open the call waits for people, so its time stands still: after the answer it
has ``Asks.timeout_s`` from then on.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from mcp_proto.errors import ErrorObject
from mcp_proto.inputs import ASKABLE, undeclared

__all__ = ["ASKABLE", "Answer", "Asks", "ask", "begin"]

Answer = bytes | ErrorObject
"""JSON bytes of the result for the server, or the error it gets."""


class Asks(Protocol):
    """Who can answer what a server asks during one call."""

    @property
    def timeout_s(self) -> float:
        """Budget of the call from the latest answer on, in seconds."""
        ...

    def begin(
        self, method: str, params: msgspec.Raw, answer: Callable[[Answer], None]
    ) -> Callable[[], None]:
        """Ask. See ``begin`` below."""
        ...


def begin(
    asks: Asks | None, method: str, params: msgspec.Raw, answer: Callable[[Answer], None]
) -> Callable[[], None]:
    """Ask without waiting.

    Args:
        asks: ``Request.asks`` of the call that the server is busy with; None = its caller
            declared nothing that could be asked.
        method: one of ``ASKABLE``; anything else gets "method not found".
        params: the server's own params.
        answer: called at most once, perhaps before this returns; never after the call ended. It
            must neither wait nor raise.

    Returns:
        Withdraws the question: the server cancelled its request, or the connection has ended.
    """
    if asks is None or method not in ASKABLE:
        answer(undeclared(method))
        return _nothing
    return asks.begin(method, params, answer)


async def ask(asks: Asks | None, method: str, params: msgspec.Raw) -> Answer:
    """Ask and wait. Cancelling withdraws the question; arguments as for ``begin``.

    Waits as long as a person may take: bound it by the life of the call it belongs to. When that
    call has ended, the answer never comes.
    """
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def settle(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    withdraw = begin(asks, method, params, settle)
    try:
        return await answered
    finally:
        withdraw()


def _nothing() -> None:
    """Nothing is open."""
