"""What stands behind an edge: callers, the dispatcher, and who hears of changed lists.

``LocalBackend`` is this process; the stdio edge has a twin that reaches a gateway over the bus.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.core.merge import ListKind
from gateway.core.paramheaders import ParamHeader
from gateway.core.requests import ModernRequest
from gateway.handlers import Dispatcher, Notices
from gateway.identity import Caller, Identities
from gateway.store import Catalogs
from gateway.subscriptions import SETTLE_S, Subscriptions, Told
from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["Backend", "BusBackend", "Changed", "HttpBackend", "LocalBackend", "Stop", "Watch"]

Changed = Callable[[frozenset[ListKind]], None]
Stop = Callable[[], object]


class Watch(Protocol):
    """What one listener wants to hear of resources; see ``subscriptions.ResourceWatch``."""

    @property
    def uris(self) -> tuple[str, ...]:
        """What it aims at."""
        ...

    def problem(self, uri: str) -> MeshError | None:
        """Why the last attempt to watch ``uri`` failed."""
        ...

    def aim(self, uris: Iterable[str]) -> None:
        """Want exactly these from now on."""
        ...

    async def settle(self, timeout_s: float = SETTLE_S) -> frozenset[str]:
        """Wait for the word of the servers; what is watched."""
        ...

    def renew(self, caller: Caller) -> None:
        """The credential was checked again."""
        ...

    def close(self) -> None:
        """Hear no more."""
        ...


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

    def listen(self, caller: Caller, changed: Changed, endpoint: str = "") -> Stop:
        """Tell ``changed`` when lists change; raises ``MeshError`` when there are too many."""
        ...

    def watch(self, caller: Caller, told: Told, endpoint: str = "") -> Watch:
        """Tell ``told`` the URIs of updated resources, once it aims at some."""
        ...


class HttpBackend(Backend, Protocol):
    """What the HTTP edge needs beside it."""

    def check_endpoint(self, caller: Caller, endpoint: str) -> None:
        """Refuse an endpoint that is not there for the caller: ``MeshError`` (``not_found``)."""
        ...

    def param_headers(
        self, caller: Caller, tool: str, endpoint: str = ""
    ) -> tuple[ParamHeader, ...]:
        """Arguments of a tool that its schema mirrors into headers."""
        ...

    def has_tool(self, caller: Caller, tool: str) -> bool:
        """Whether the caller's tenant has a tool of this name."""
        ...


class BusBackend(Backend, Protocol):
    """What the edge on the bus needs beside it."""

    async def delegated(self, context: str, tenant: str) -> Caller:
        """The caller in whose name an agent asks; raises ``MeshError``."""
        ...


class LocalBackend:
    """The parts of this process."""

    def __init__(
        self,
        *,
        identities: Identities,
        dispatcher: Dispatcher,
        catalogs: Catalogs,
        subscriptions: Subscriptions,
    ) -> None:
        self._catalogs = catalogs
        self.watch = subscriptions.watch
        # Bound once: these are on the path of every call.
        self.known = identities.known
        self.caller = identities.caller
        self.delegated = identities.delegated
        self.dispatch = dispatcher.dispatch
        self.param_headers = dispatcher.param_headers
        self.has_tool = dispatcher.has_tool

    def check_endpoint(self, caller: Caller, endpoint: str) -> None:
        """Refuse an endpoint that is not there for the caller.

        Raises:
            MeshError: ``not_found``.
        """
        self._catalogs.lists(caller.viewer, endpoint)

    def listen(self, caller: Caller, changed: Changed, endpoint: str = "") -> Stop:
        """Tell ``changed`` when the lists that ``caller`` sees at ``endpoint`` change.

        Raises:
            MeshError: ``overloaded``.
        """
        listener = self._catalogs.listen(lambda: caller.viewer, changed, endpoint)
        if listener is None:
            raise MeshError(ErrorKind.OVERLOADED, "too many listeners", retry_after_s=5.0)
        return listener.close
