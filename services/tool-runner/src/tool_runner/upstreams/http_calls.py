"""A call over legacy HTTP as one that the server's questions outside of streams may be about."""

import asyncio

from tool_runner.upstreams.http_answers import Exchange
from tool_runner.upstreams.pending import Pending

__all__ = ["HttpCall"]


class HttpCall(Pending):
    """A ``Pending`` whose time is that of its exchange, once that runs.

    Args:
        exchange: the request and its response.

    Attributes:
        restarted_s: its time after its caller was asked for roots before it; 0 = was not.
    """

    __slots__ = ("_exchange", "restarted_s")

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange.method, exchange.request)
        self._exchange = exchange
        self.restarted_s = 0.0
        exchange.call = self

    @property
    def parked(self) -> bool:
        """Waits for an answer of its caller, wherever the question came."""
        return bool(self.questions or self._exchange.questions) and not self.preparing

    def time(self, timeout_s: float) -> None:
        """Let it expire after so long from now, unless a question on its stream is open."""
        limit = self._exchange.limit
        if limit is None:
            super().time(timeout_s)
            self.restarted_s = timeout_s if self.sent else 0.0
        elif not self._exchange.questions and not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time() + timeout_s)

    def hold_time(self) -> None:
        """Let it expire no more."""
        super().hold_time()
        limit = self._exchange.limit
        if limit is not None and not limit.expired():
            limit.reschedule(None)
