"""Memory of finished calls: a duplicate is answered, not run again.

The window is a minute, less under load (bounded by number and bytes). What was too large to keep
still counts as executed, so that it is refused rather than repeated.
"""

from collections import OrderedDict

import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome

__all__ = ["Finished", "FinishedCalls"]

KEEP_S = 60.0
ENTRIES_MAX = 8192
BYTES_MAX = 16 * 1024 * 1024
"""All results of a process together."""
RESULT_MAX = 64 * 1024
"""Larger results are not kept, only the fact that the call ran."""

Key = tuple[str, str]
"""Subject and ``Mesh-Req``."""


class Finished(msgspec.Struct, frozen=True):
    """How a call ended. ``body`` None = ran, but its result was too large to keep."""

    fingerprint: int
    expires: float
    body: bytes | None
    error: MeshError | None


class FinishedCalls:
    """Bounded, time-limited table; the oldest goes first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, Finished] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def keep(
        self, key: Key, fingerprint: int, now: float, body: bytes | None, error: MeshError | None
    ) -> None:
        """Remember an ended call; one that provably did not run may be run again.

        Args:
            key: of the call.
            fingerprint: what a repeat must repeat.
            now: loop time.
            body: of the answer; None = it was too large to be here whole.
            error: instead of an answer.
        """
        if error is not None and error.outcome is Outcome.NOT_EXECUTED:
            return
        kept = body if body is not None and len(body) <= RESULT_MAX else None
        self._remove(key)
        self._entries[key] = Finished(fingerprint, now + KEEP_S, kept, error)
        self._bytes += len(kept or b"")
        while self._entries:
            oldest, entry = next(iter(self._entries.items()))
            full = len(self._entries) > ENTRIES_MAX or self._bytes > BYTES_MAX
            if not full and entry.expires > now:
                break
            self._remove(oldest)

    def find(self, key: Key, fingerprint: int, now: float) -> Finished | None:
        """The ended call of this key, None when there is none.

        Raises:
            MeshError: ``request`` when the key was used for another body, ``too_large`` with
                outcome executed when the result was not kept.
        """
        entry = self._entries.get(key)
        if entry is None or entry.expires <= now:
            return None
        if entry.fingerprint != fingerprint:
            raise MeshError(ErrorKind.REQUEST, "Mesh-Req was used for another request")
        if entry.body is None:
            raise MeshError(
                ErrorKind.TOO_LARGE,
                "the call has run; its result was too large to keep",
                outcome=Outcome.EXECUTED,
            )
        return entry

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry.body or b"")
