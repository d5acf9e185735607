"""Whose roots a legacy server has, so that no other caller is served with them.

Servers ask ``roots/list`` once and keep the answer as long as the connection lasts. On a connection
that callers share it is the answer of one of them. Before a call of another one, the server is told
that the roots have changed; it asks again, and that question is about the call that waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from mcp_proto.codec import encode_notification
from mcp_proto.inputs import RESUMABLE
from tool_runner.upstreams.pending import Owner, Pending

__all__ = ["ASK_S", "NO_ROOTS", "UNHEARD_MAX", "Roots"]

ASK_S = 0.25
"""Longest wait for a server to ask again after it was told that the roots have changed."""

UNHEARD_MAX = 2
"""Notices in a row without a question, after which no call waits for one any more."""

ANSWER_S = 30.0
"""Longest wait for a client to list its roots before its call goes on without."""

NO_ROOTS = b'{"roots":[]}'
"""Answer for a caller that has none. Servers keep what they had when they get an error."""

_CHANGED = encode_notification("notifications/roots/list_changed", b"")
_NOBODY: Owner = ("", "", "")
_UNSETTLED: Owner = ("\0", "", "")
"""Nobody has this name: whoever calls next is another one."""


class Roots:
    """The roots of one connection.

    Args:
        write: sends a message without waiting; may raise ``MeshError``.
        barrier: returns when the server has read what was sent before, or does not answer.

    Attributes:
        caller: the call for which the server is being made to ask again; None = none.
    """

    def __init__(
        self, write: Callable[[bytes], None], barrier: Callable[[], Awaitable[None]]
    ) -> None:
        self.caller: Pending | None = None
        self._write = write
        self._barrier = barrier
        self._held: Owner | None = None
        self._unheard = 0
        self._over: asyncio.Future[None] | None = None
        self._asked: asyncio.Future[None] | None = None
        self._answered: asyncio.Future[None] | None = None

    @property
    def held(self) -> bool:
        """The server has asked for roots and got some: they are somebody's."""
        return self._held is not None

    def given(self, pending: Pending) -> None:
        """The server has got the roots of who made this call."""
        self._held = _key(pending)

    def unsettle(self) -> None:
        """Nobody knows whose roots the server goes by now."""
        if self._held is not None:
            self._held = _UNSETTLED

    def forget(self) -> None:
        """A new session at the server: it has asked for nothing yet."""
        self._held = None

    def foreign(self, pending: Pending) -> bool:
        """Whether the server has roots of another caller than who made this call."""
        return (
            self._held is not None and pending.method in RESUMABLE and self._held != _key(pending)
        )

    def tell(self, pending: Pending) -> None:
        """Make the server ask again during a call that it is busy with."""
        self._held = _key(pending)
        self._write(_CHANGED)

    async def change(self, pending: Pending) -> None:
        """Make the server ask again before a call is sent to it, if it has another's roots.

        Raises:
            MeshError: the notice cannot be sent.
        """
        while self._over is not None:
            await asyncio.shield(self._over)
        if not self.foreign(pending):
            return
        loop = asyncio.get_running_loop()
        self._over, self._asked, self._answered = (loop.create_future() for _ in range(3))
        self.caller = pending
        try:
            self.tell(pending)
            if self._unheard < UNHEARD_MAX:
                await self._heard(self._asked, self._answered)
        except BaseException:
            self.unsettle()
            raise
        finally:
            self.caller = None
            self._over.set_result(None)
            self._over = None

    def asked(self) -> None:
        """The server asks, because it was told to."""
        self._unheard = 0
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)

    def answered(self) -> None:
        """It got its answer."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    async def _heard(self, asked: asyncio.Future[None], answered: asyncio.Future[None]) -> None:
        await asyncio.wait((asked,), timeout=ASK_S)
        if not asked.done():
            self._unheard += 1
            return
        await asyncio.wait((answered,), timeout=ANSWER_S)
        if answered.done():
            await self._barrier()
        else:
            self.unsettle()


def _key(pending: Pending) -> Owner:
    """Callers who cannot be asked have the same roots: none."""
    request = pending.request
    return pending.owner if request is not None and request.asks is not None else _NOBODY
