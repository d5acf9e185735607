"""Cuts one long string out of a JSON text that arrives in pieces, to be used while it arrives.

What is left is a small JSON text with a mark in the string's place, which the ordinary decoders
judge at the end as they judge any other message. So this needs no grammar: it only knows where
strings begin and end, and wherever it is not sure it cuts nothing.
"""

import re
from collections.abc import Callable

__all__ = ["LongString"]

LONG_BYTES = 64 * 1024
"""A string from this length on is worth cutting out."""
HEAD_BYTES_MAX = 256 * 1024
STRINGS_MAX = 1_000
"""What may stand before the string; beyond that nothing is cut."""
_TAIL_BYTES = 12
"""The longest escape: two of six bytes that are one character."""
# Possessive: a string that does not end is given up at once instead of tried in shorter forms.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_QUOTE, _BACKSLASH, _U = b'"', ord("\\"), ord("u")


class LongString:
    """The cut through one text.

    Args:
        mark: stands for the string in ``rest``; needs no escapes.
        wanted: gets the text before the string (without its quote); whether to cut there.
    """

    def __init__(self, mark: bytes, wanted: Callable[[bytes], bool]) -> None:
        self._mark = mark
        self._wanted = wanted
        self._head = b""
        self._at = 0
        self._strings = 0
        self._held = b""
        self._tail: list[bytes] = []
        self._step: Callable[[bytes], bytes] = self._seek
        self.begun = False
        """The string was found and is being cut out."""
        self.ended = False
        """It was found whole."""

    def feed(self, piece: bytes) -> bytes:
        """Take the next piece; what of the string it brings, raw, with no escape torn apart."""
        return self._step(piece)

    def rest(self) -> bytes | None:
        """The text with the mark for the string; None = no string was cut out."""
        if not self.ended:
            return None
        return b"".join((self._head, _QUOTE, self._mark, _QUOTE, *self._tail))

    def _seek(self, piece: bytes) -> bytes:
        head = self._head = self._head + piece
        while (at := head.find(_QUOTE, self._at)) >= 0:
            found = _STRING.match(head, at)
            if found is None:
                self._at = at
                return self._long(at)
            self._at = found.end()
            self._strings += 1
            if self._strings > STRINGS_MAX:
                return self._give_up()
        self._at = len(head)
        return b"" if len(head) <= HEAD_BYTES_MAX else self._give_up()

    def _long(self, at: int) -> bytes:
        head = self._head
        if len(head) - at < LONG_BYTES:
            return b"" if len(head) <= HEAD_BYTES_MAX else self._give_up()
        if not self._wanted(head[:at]):
            return self._give_up()
        self.begun = True
        self._head = head[:at]
        self._step = self._cut
        return self._cut(head[at + 1 :])

    def _cut(self, piece: bytes) -> bytes:
        data = self._held + piece if self._held else piece
        # Within a string a run of backslashes is read from its start: of pairs, then quotes.
        seen = data
        if b"\\" in data:
            seen = data.replace(b"\\\\", b"..").replace(b'\\"', b"..")
        end = seen.find(_QUOTE)
        if end < 0:
            whole = _whole(data)
            self._held = data[whole:]
            return data[:whole]
        self._held = b""
        self.ended = True
        self._tail.append(data[end + 1 :])
        self._step = self._keep
        return data[:end]

    def _keep(self, piece: bytes) -> bytes:
        self._tail.append(piece)
        return b""

    def _give_up(self) -> bytes:
        self._head = b""
        self._step = _nothing
        return b""


def _nothing(_piece: bytes) -> bytes:
    return b""


def _whole(data: bytes) -> int:
    """Length of the longest beginning of a string that tears no character and no escape apart."""
    size = len(data)
    at = data.find(b"\\", max(0, size - _TAIL_BYTES))
    if at >= 0:
        before = data[:at]
        if (at - len(before.rstrip(b"\\"))) % 2:
            at += 1  # the second of a pair
        while at < size:
            step = _length(data, at)
            if at + step > size:
                return at
            at += step
        return size
    for back in range(1, min(4, size) + 1):
        byte = data[size - back]
        if byte & 0xC0 != 0x80:  # no continuation: the character begins here
            needed = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return size - back if needed > back else size
    return size


def _length(data: bytes, at: int) -> int:
    """Bytes that belong together from ``at`` on; more than there are where the end is open."""
    byte = data[at]
    if byte != _BACKSLASH:
        return 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    if at + 1 >= len(data):
        return 2
    if data[at + 1] != _U:
        return 2
    # The first half of a pair is kept until the second one is there.
    return 12 if data[at + 2 : at + 4].lower() in _FIRST_HALVES or at + 4 > len(data) else 6


_FIRST_HALVES = frozenset((b"d8", b"d9", b"da", b"db"))
