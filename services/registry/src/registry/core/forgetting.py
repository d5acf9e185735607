"""When a catalogue that nobody serves any more may go.

A catalogue says what exists, so a crashed or restarting server stays listed. One that no live
instance has served for a long while and that no definition brings back is forgotten.
"""

from collections.abc import Collection, Iterable

__all__ = ["LastServed"]

Pair = tuple[str, str]


class LastServed:
    """Remembers when each ``(tenant, server)`` was last served, in caller-given seconds."""

    def __init__(self) -> None:
        self._last_s: dict[Pair, float] = {}

    def __len__(self) -> int:
        """Servers remembered."""
        return len(self._last_s)

    def note(self, pair: Pair, now_s: float) -> None:
        """The server was registered or served just now."""
        self._last_s[pair] = now_s

    def due(
        self,
        entries: Collection[Pair],
        *,
        served: Iterable[Pair],
        kept: Collection[Pair],
        now_s: float,
        forget_after_s: float,
    ) -> list[Pair]:
        """Entries to forget, sorted.

        Args:
            entries: what is in the catalogue.
            served: what live instances serve now.
            kept: what definitions bring back; never forgotten.
            now_s: the time.
            forget_after_s: how long an entry may go unserved. An entry seen for the first time
                counts as served then: this process cannot know about the time before.
        """
        for pair in served:
            self._last_s[pair] = now_s
        for pair in entries:
            self._last_s.setdefault(pair, now_s)
        for gone in [pair for pair in self._last_s if pair not in entries]:
            # A server registered a moment ago may not be in the entries yet; it is noted again.
            if now_s - self._last_s[gone] >= forget_after_s:
                del self._last_s[gone]
        return sorted(
            pair
            for pair in entries
            if pair not in kept and now_s - self._last_s[pair] >= forget_after_s
        )
