"""A stream that outlives its request: changed lists and updated resources, told to one caller.

It ends with its connection, with its session, when the gateway drains, and when its credential
is no longer good: a cut makes the stream ask again, and only a refusal ends it.
"""

from collections.abc import Callable

from gateway.backend import Backend, Changed, Stop
from gateway.core import httprules
from gateway.edges.exchange import Exchange
from gateway.edges.sse import EventStream, Headers
from gateway.identity import Caller
from gateway.subscriptions import Told
from mcp_proto.errors import MeshError

__all__ = ["ListStream"]


class ListStream:
    """An event stream fed by changes of lists.

    Args:
        backend: tells of changes, checks the credential again.
        exchange: the request that opened it.
        caller: checked.
        changed: called with the lists that changed; pushes what it wants said.
        told: called with the URIs of updated resources, once ``watch`` aims at some.
        headers: put on the answer.
    """

    def __init__(
        self,
        backend: Backend,
        exchange: Exchange,
        caller: Caller,
        changed: Changed,
        told: Told,
        headers: Headers = (),
    ) -> None:
        self._backend = backend
        self._exchange = exchange
        self._caller = caller
        self._changed = changed
        self._stop: Stop | None = None
        self._cut = False
        self.on_refused: Callable[[], None] | None = None
        """Called before the end when the credential is no longer good."""
        self.on_look: Callable[[], object] | None = None
        """Called now and then while it is open, at least every 15 s."""
        self.watch = backend.watch(caller, told, exchange.endpoint)
        self.events = EventStream(exchange.send, (*exchange.cors, *headers))

    async def run(self) -> None:
        """Stream until it ends; the watch ends with it.

        Raises:
            MeshError: ``overloaded``, before anything was sent.
        """
        connection = self._exchange.connection
        try:
            self._attach(self._caller)
            connection.on_lost = self.events.end
            await self.events.run(self._check)
        finally:
            connection.on_lost = None
            self._detach()
            self.watch.close()

    def _attach(self, caller: Caller) -> None:
        self._stop = self._backend.listen(caller, self._changed, self._exchange.endpoint)
        self._caller = caller
        caller.ended[self._on_cut] = None

    def _detach(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None
        self._caller.ended.pop(self._on_cut, None)

    def _on_cut(self) -> None:
        self._cut = True
        self.events.wake()

    async def _check(self) -> bool:
        if self.on_look is not None:
            self.on_look()
        if not self._cut:
            return True
        self._cut = False
        self._detach()
        good = await self._renewed()
        if not good and self.on_refused is not None:
            self.on_refused()
        return good

    async def _renewed(self) -> bool:
        try:
            credential = httprules.bearer(self._exchange.heads.get(b"authorization"))
            caller = await self._backend.caller(credential)
        except MeshError:
            return False
        own = self._caller
        if (caller.tenant, caller.principal) != (own.tenant, own.principal):
            return False
        self._attach(caller)
        self.watch.renew(caller)
        return True
