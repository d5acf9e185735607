"""Who wants to hear of which resource of one upstream server, and until when."""

from collections.abc import Iterable

from mcp_proto.contracts.watching import LEASE_S
from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["SUBSCRIBERS_MAX", "WATCHED_MAX", "WatchTable"]

WATCHED_MAX = 10_000
"""Watched URIs of one server; a server with more to watch should be listed, not watched."""

SUBSCRIBERS_MAX = 256
"""Subscribers of one URI. They are gateways, so this is a bound on gateways, not on clients."""


class WatchTable:
    """Subscribers by URI; times are monotonic seconds."""

    def __init__(self) -> None:
        self._until: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        """Watched URIs."""
        return len(self._until)

    def __contains__(self, uri: object) -> bool:
        """Whether anybody wants to hear of it."""
        return uri in self._until

    def above(self, uri: str) -> bool:
        """Whether anybody wants to hear of something that the URI is a part of."""
        at = len(uri)
        while (at := uri.rfind("/", 0, at)) > 0:
            if uri[: at + 1] in self._until or uri[:at] in self._until:
                return True
        return False

    def renew(self, uri: str, subscriber: str, now: float) -> bool:
        """Subscribe, or go on.

        Returns:
            True when nobody watched the URI before.

        Raises:
            MeshError: ``overloaded`` at a bound.
        """
        known = self._until.get(uri)
        if known is None:
            if len(self._until) >= WATCHED_MAX:
                raise MeshError(ErrorKind.OVERLOADED, "the server has too many watched resources")
            self._until[uri] = {subscriber: now + LEASE_S}
            return True
        if subscriber not in known and len(known) >= SUBSCRIBERS_MAX:
            raise MeshError(ErrorKind.OVERLOADED, "the resource has too many subscribers")
        known[subscriber] = now + LEASE_S
        return False

    def end(self, uri: str, subscriber: str) -> None:
        """Unsubscribe."""
        known = self._until.get(uri)
        if known is not None:
            known.pop(subscriber, None)
            if not known:
                del self._until[uri]

    def forget(self, uris: Iterable[str]) -> None:
        """The upstream does not watch these: nobody is subscribed."""
        for uri in uris:
            self._until.pop(uri, None)

    def alive(self, now: float) -> frozenset[str]:
        """What is still wanted; what was not renewed in time is dropped."""
        for uri, known in list(self._until.items()):
            for subscriber in [one for one, until in known.items() if until <= now]:
                self.end(uri, subscriber)
        return frozenset(self._until)
