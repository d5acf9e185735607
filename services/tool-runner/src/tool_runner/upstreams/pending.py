"""A request to a server that has no answer yet."""

import asyncio
from collections import deque

import msgspec

from mcp_proto.errors import MeshError
from mcp_proto.jsonrpc import ErrorResponse, Response
from tool_runner.upstreams.upstream import Request

__all__ = ["Owner", "Pending"]

Owner = tuple[str, str, str]
"""Tenant, principal and session: whose call it is."""


class Pending:
    """A request without its answer yet.

    Attributes:
        request: the caller's request; None for one of our own.
        method: method of the request.
        sent: on its way to the server; a call that waits for its turn is not.
        alone: may not run beside calls of other owners (``turns``).
        apart: the same, but beside those that are parked it may.
        preparing: before it is sent the server is made to ask for its caller's roots.
        questions: what the server asks during it, and nobody has answered yet.
        running_since: when it was sent, or went on after the latest answer (loop time).
        asked: a question came while it was under way; so it has begun.
    """

    __slots__ = (
        "_timer",
        "alone",
        "apart",
        "asked",
        "expired",
        "failure",
        "log_level",
        "method",
        "notes",
        "preparing",
        "progress",
        "questions",
        "reply",
        "request",
        "running_since",
        "sent",
        "token",
        "wake",
    )

    def __init__(self, method: str, request: Request | None = None) -> None:
        self.wake = asyncio.get_running_loop().create_future()
        self.method = method
        self.request = request
        self.reply: Response | ErrorResponse | None = None
        self.failure: MeshError | None = None
        self.expired = False
        self.notes: deque[bytes] | None = None
        self.token: msgspec.Raw | None = None
        self.progress: float | None = None
        self.log_level = ""
        self.sent = False
        self.alone = False
        self.apart = False
        self.preparing = False
        self.questions = 0
        self.running_since = 0.0
        self.asked = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def owner(self) -> Owner:
        """Whose call it is."""
        request = self.request
        if request is None:
            return ("", "", "")
        caller = request.caller
        if caller is None:
            return (request.tenant, "", "")
        return (caller.tid, caller.sub, caller.sid)

    @property
    def parked(self) -> bool:
        """Waits for an answer of its caller."""
        return self.questions > 0 and not self.preparing

    def poke(self) -> None:
        """Wake who awaits it."""
        if not self.wake.done():
            self.wake.set_result(None)

    def settle(self, reply: Response | ErrorResponse) -> None:
        """Take the answer."""
        if self.reply is None:  # a server may answer twice; the first one counts
            self.reply = reply
            self.poke()

    def fail(self, error: MeshError) -> None:
        """No answer will come."""
        self.failure = error
        self.poke()

    def note(self, notification: bytes) -> None:
        """Take a notification for the caller."""
        if self.notes is not None:
            self.notes.append(notification)
            self.poke()

    def time(self, timeout_s: float) -> None:
        """Let it expire after so long from now."""
        self.hold_time()
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._expire)

    def hold_time(self) -> None:
        """Let it expire no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        self.poke()
