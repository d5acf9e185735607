"""Which resources of which servers somebody at this gateway wants to hear of.

One ``Interest`` per resource, however many clients share it: it is asked for at the server's
runner once, renewed while anybody listens, and given back a little after the last one left, so
that a client which reconnects costs nothing. This is the table; ``gateway.subscriptions`` asks.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from mcp_proto.contracts.watching import RENEW_S, URIS_MAX
from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["INTERESTS_MAX", "LINGER_S", "RETRY_S", "Batch", "Interest", "Interests", "Server"]

INTERESTS_MAX = 10_000
"""Resources one gateway asks for; each costs a line in a renewal every 20 s."""

LINGER_S = 2.0
"""How long a resource is watched after its last listener left."""

RETRY_S = 2.0
"""Wait before a server that could not be asked is asked again."""

L = TypeVar("L")


class Server(msgspec.Struct, frozen=True):
    """A server and its owner; ``_`` = shared."""

    owner: str
    name: str


class Interest(Generic[L]):
    """One resource that somebody wants to hear of.

    Attributes:
        server: whose it is.
        uri: its server's own name for it.
        listeners: who wants to hear, under which listed URIs.
        due: when the runner is asked next, in monotonic seconds.
        asked: a request is under way.
        watched: a runner has taken it, now or earlier.
        last: the listener that left last; None = none has.
    """

    __slots__ = ("asked", "due", "last", "listeners", "server", "uri", "watched")

    def __init__(self, server: Server, uri: str, due: float) -> None:
        self.server = server
        self.uri = uri
        self.listeners: dict[L, dict[str, None]] = {}
        self.due = due
        self.asked = False
        self.watched = False
        self.last: L | None = None


class Batch(msgspec.Struct, Generic[L], frozen=True):
    """One request to a server: subscribe, or unsubscribe where nobody listens any more."""

    server: Server
    wanted: bool
    interests: tuple[Interest[L], ...]


class Interests(Generic[L]):
    """All interests of a gateway, by server."""

    def __init__(self) -> None:
        self._servers: dict[Server, dict[str, Interest[L]]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Resources asked for, those that linger included."""
        return self._count

    def __iter__(self) -> Iterator[Interest[L]]:
        """All interests."""
        for known in self._servers.values():
            yield from known.values()

    def join(self, server: Server, uri: str, listener: L, listed: str, now: float) -> Interest[L]:
        """``listener`` wants to hear of a resource that its client knows as ``listed``.

        Raises:
            MeshError: ``overloaded``.
        """
        known = self._servers.setdefault(server, {})
        interest = known.get(uri)
        if interest is None:
            if self._count >= INTERESTS_MAX:
                if not known:
                    del self._servers[server]
                raise MeshError(
                    ErrorKind.OVERLOADED, "too many watched resources", retry_after_s=5.0
                )
            interest = known[uri] = Interest(server, uri, now)
            self._count += 1
        elif not interest.listeners:
            interest.due = now
        interest.listeners.setdefault(listener, {})[listed] = None
        return interest

    def leave(self, interest: Interest[L], listener: L, listed: str, now: float) -> None:
        """It no longer wants to."""
        names = interest.listeners.get(listener)
        if names is None:
            return
        names.pop(listed, None)
        if not names:
            del interest.listeners[listener]
            interest.last = listener
        if not interest.listeners:
            interest.due = now + (LINGER_S if interest.watched else 0.0)

    def given_back(self, interest: Interest[L], now: float) -> None:
        """The runner was told that nobody listens; somebody may by now."""
        interest.asked = False
        if interest.listeners:
            interest.due = now
            return
        known = self._servers.get(interest.server, {})
        if known.get(interest.uri) is interest:
            del known[interest.uri]
            self._count -= 1
            if not known:
                del self._servers[interest.server]

    def answered(self, interest: Interest[L], now: float, *, watched: bool) -> None:
        """The runner was asked."""
        interest.asked = False
        interest.watched = interest.watched or watched
        if interest.listeners:
            interest.due = now + (RENEW_S if watched else RETRY_S)
        else:
            interest.due = now + LINGER_S

    def anew(self, server: Server, now: float) -> bool:
        """The server is served anew: everything of it is asked for again at once."""
        known = self._servers.get(server, {})
        for interest in known.values():
            interest.due = min(interest.due, now)
        return bool(known)

    def due(self, now: float) -> list[Batch[L]]:
        """What is to be asked now, in requests of bounded size; marks it as asked.

        What nobody listens to counts as not watched from here on: a listener that comes while the
        runner is told waits until it was asked again.
        """
        batches: list[Batch[L]] = []
        for server, known in self._servers.items():
            ready = [one for one in known.values() if one.due <= now and not one.asked]
            for wanted in (True, False):
                group = [one for one in ready if bool(one.listeners) is wanted]
                for at in range(0, len(group), URIS_MAX):
                    part = tuple(group[at : at + URIS_MAX])
                    for one in part:
                        one.asked = True
                        one.watched = one.watched and wanted
                    batches.append(Batch(server, wanted, part))
        return batches

    def next_due(self) -> float | None:
        """When something is to be asked next; None = nothing is asked for."""
        return min((one.due for one in self if not one.asked), default=None)

    def hearing(self, server: Server, uri: str) -> list[tuple[L, str]]:
        """Who is told that ``uri`` changed, and as which URI.

        A server may name a part of what is watched (MCP, "Resources"): whoever watches something
        above it is told too, under the part's own name where the resource is listed under its
        own. What one client watches takes nothing away from another.
        """
        known = self._servers.get(server)
        if known is None:
            return []
        told: dict[tuple[L, str], None] = {}
        exact = known.get(uri)
        if exact is not None:
            told.update(
                ((who, name), None) for who, names in exact.listeners.items() for name in names
            )
        for above in _above(known, uri):
            for who, names in above.listeners.items():
                told.update(((who, uri if name == above.uri else name), None) for name in names)
        return list(told)


def _above(known: dict[str, Interest[L]], uri: str) -> Iterator[Interest[L]]:
    at = len(uri)
    while (at := uri.rfind("/", 0, at)) > 0:
        # A resource may be named with or without the slash at its end.
        for name in (uri[: at + 1], uri[:at]):
            found = known.get(name) if name != uri else None
            if found is not None:
                yield found
