"""What stands behind an edge: callers, the dispatcher, and who hears of changed lists.

``LocalBackend`` is this process; the stdio edge has a twin that reaches a gateway over the bus.
"""

from collections.abc import Callable
from typing import Protocol

from gateway.core.merge import ListKind
from gateway.core.paramheaders import ParamHeader
from gateway.core.requests import ModernRequest
from gateway.handlers import Dispatcher, Notices
from gateway.identity import Caller, Identities
from gateway.store import Catalogs
from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["Backend", "Changed", "HttpBackend", "LocalBackend", "Stop"]

Changed = Callable[[frozenset[ListKind]], None]
Stop = Callable[[], object]


class Backend(Protocol):
    """What an edge needs."""

    def known(self, credential: str, tenant: str = "") -> Caller | None:
        """The caller if the credential is remembered as good; never waits."""
        ...

    async def caller(self, credential: str, tenant: str = "") -> Caller:
        """Check a credential; raises ``MeshError``."""
        ...

    async def dispatch(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None = None
    ) -> bytes:
        """The result object of a modern request; raises ``MeshError``."""
        ...

    def listen(self, caller: Caller, changed: Changed) -> Stop:
        """Tell ``changed`` when lists change; raises ``MeshError`` when there are too many."""
        ...


class HttpBackend(Backend, Protocol):
    """What the HTTP edge needs beside it."""

    def param_headers(self, caller: Caller, tool: str) -> tuple[ParamHeader, ...]:
        """Arguments of a tool that its schema mirrors into headers."""
        ...

    def has_tool(self, caller: Caller, tool: str) -> bool:
        """Whether the caller's tenant has a tool of this name."""
        ...


class LocalBackend:
    """The parts of this process."""

    def __init__(
        self, *, identities: Identities, dispatcher: Dispatcher, catalogs: Catalogs
    ) -> None:
        self._catalogs = catalogs
        # Bound once: these are on the path of every call.
        self.known = identities.known
        self.caller = identities.caller
        self.dispatch = dispatcher.dispatch
        self.param_headers = dispatcher.param_headers
        self.has_tool = dispatcher.has_tool

    def listen(self, caller: Caller, changed: Changed) -> Stop:
        """Tell ``changed`` when the lists that ``caller`` sees change.

        Raises:
            MeshError: ``overloaded``.
        """
        listener = self._catalogs.listen(lambda: caller.viewer, changed)
        if listener is None:
            raise MeshError(ErrorKind.OVERLOADED, "too many listeners", retry_after_s=5.0)
        return listener.close
