"""Keeps calls of different callers apart on a connection whose server asks back.

A call to a target that asks (``core.askers``), made by somebody who can be asked, runs alone:
beside it only calls of the same owner are sent to the server. Then a question has one possible
owner. A call that is parked, because people think about an answer, keeps only calls that must be
alone themselves waiting; everybody else goes on beside it. Why so: docs/adr/0015.
"""

import asyncio
from collections.abc import Callable, Collection

from tool_runner.upstreams.pending import Owner, Pending

__all__ = ["GHOST_S", "RESUME_WAIT_S", "Turns"]

GHOST_S = 5.0
"""A cancelled call counts as running for so long: nothing tells when the server lets go of it."""

GHOSTS_MAX = 256
"""Cancelled calls remembered; the oldest go first."""

RESUME_WAIT_S = 2.0
"""Longest wait of a resumed call for others to leave; then it goes on beside them."""


class _Waiter:
    __slots__ = ("go", "pending")

    def __init__(self, pending: Pending, go: Callable[[], None]) -> None:
        self.pending = pending
        self.go = go


class Turns:
    """Who may run now. Fed by ``Session`` and ``Inquiries``.

    Args:
        pending: all requests of the connection without an answer.
    """

    def __init__(self, pending: Callable[[], Collection[Pending]]) -> None:
        self._pending = pending
        self._waiters: list[_Waiter] = []
        self._ghosts: dict[int, tuple[Owner, asyncio.TimerHandle]] = {}

    def calls(self) -> list[Pending]:
        """Callers' requests that the server has and has not answered."""
        return [
            one
            for one in self._pending()
            if one.request is not None and one.sent and one.reply is None
        ]

    def ghost_owners(self) -> set[Owner]:
        """Owners of cancelled calls that the server may still be busy with."""
        return {owner for owner, _ in self._ghosts.values()}

    async def enter(self, pending: Pending) -> None:
        """Wait until the call may run; sets ``sent``.

        Returns early, without ``sent``, when the call has expired or failed.
        """

        def go() -> None:
            pending.sent = True
            pending.poke()

        waiter = self._wait(pending, go)
        try:
            while not (pending.sent or pending.expired or pending.failure):
                await pending.wake
                pending.wake = asyncio.get_running_loop().create_future()
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self.stir()

    def resume(self, pending: Pending, go: Callable[[], None]) -> None:
        """Run ``go`` when a parked call may run again, at once or a little later."""
        waiter = self._wait(pending, go)
        if waiter in self._waiters:
            asyncio.get_running_loop().call_later(RESUME_WAIT_S, self._insist, waiter)

    def cancelled(self, number: int, owner: Owner) -> None:
        """A call was cancelled at the server, which may not have noticed yet."""
        if len(self._ghosts) >= GHOSTS_MAX:
            self.answered(next(iter(self._ghosts)))
        timer = asyncio.get_running_loop().call_later(GHOST_S, self.answered, number)
        self._ghosts[number] = (owner, timer)

    def answered(self, number: int) -> None:
        """The server is done with a cancelled call."""
        ghost = self._ghosts.pop(number, None)
        if ghost is not None:
            ghost[1].cancel()
            self.stir()

    def left(self, pending: Pending) -> None:
        """A call is over."""
        self._waiters = [one for one in self._waiters if one.pending is not pending]
        self.stir()

    def stir(self) -> None:
        """A call ended or was parked: let in who may."""
        at = 0
        while at < len(self._waiters):
            waiter = self._waiters[at]
            if self._may(waiter.pending, at):
                del self._waiters[at]
                waiter.go()
            else:
                at += 1

    def close(self) -> None:
        """The connection is gone."""
        for _, timer in self._ghosts.values():
            timer.cancel()
        self._ghosts.clear()
        self._waiters.clear()

    def _wait(self, pending: Pending, go: Callable[[], None]) -> _Waiter:
        waiter = _Waiter(pending, go)
        if self._may(pending, len(self._waiters)):
            go()
        else:
            self._waiters.append(waiter)
        return waiter

    def _insist(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            waiter.go()

    def _may(self, pending: Pending, before: int) -> bool:
        if self._blocked(pending):
            return False
        # Who must be alone and waits only for running calls is next; else it would wait forever.
        owner = pending.owner
        return not any(
            (one.pending.alone or one.pending.apart)
            and one.pending.owner != owner
            and not self._blocked_by_parked(one.pending)
            for one in self._waiters[:before]
        )

    def _blocked(self, pending: Pending) -> bool:
        owner = pending.owner
        others = [one for one in self.calls() if one is not pending and one.owner != owner]
        apart = pending.alone or pending.apart
        if any(apart or one.alone or one.apart for one in others if not one.parked):
            return True
        if not pending.alone:
            return False
        return self._blocked_by_parked(pending) or bool(self.ghost_owners() - {owner})

    def _blocked_by_parked(self, pending: Pending) -> bool:
        """A parked call that goes on has its place already."""
        if not pending.alone:
            return False
        owner = pending.owner
        return not pending.sent and any(one.parked and one.owner != owner for one in self.calls())
