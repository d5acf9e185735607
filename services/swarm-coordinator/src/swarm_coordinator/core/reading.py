"""Arguments of tools, read member by member: what is wrong is named by its JSON pointer.

Schemas are checked at the edges as far as clients have them; what counts is checked here, since a
task that was accepted is in the log for good. ``null`` is the same as not given: clients that are
generated from schemas write it for whatever they leave out. Members that nobody asks for become
warnings, so that nothing is silently ignored.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.references import escape
from swarm_coordinator.core.views import PlanError

__all__ = ["Table", "elements_of", "kind_of"]

MEMBERS_MAX = 256
"""Members of one object of arguments; free-form values (``input``) are not counted."""
WARNINGS_MAX = 50
SHOWN_CHARS = 60
"""Of a wrong value in a message."""

Word = TypeVar("Word", bound=str)
Made = TypeVar("Made")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_KINDS = {
    b"{": "an object", b"[": "an array", b'"': "a string",
    b"t": "a boolean", b"f": "a boolean", b"n": "null",
}  # fmt: skip


def kind_of(value: msgspec.Raw | bytes) -> str:
    """What a JSON value is, in words; "nothing" when there is none."""
    head = bytes(value).lstrip()[:1]
    return _KINDS.get(head, "a number") if head else "nothing"


def _shown(value: msgspec.Raw) -> str:
    text = bytes(value).decode("utf-8", "replace")
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def elements_of(value: msgspec.Raw, where: str, most: int) -> list[msgspec.Raw]:
    """Elements of an array.

    Raises:
        PlanError: it is none, or longer than ``most``.
    """
    try:
        found = _elements.decode(value)
    except (ValueError, RecursionError):
        raise PlanError(where, f"expected an array, got {kind_of(value)}") from None
    if len(found) > most:
        raise PlanError(where, f"expected at most {most} elements, got {len(found)}")
    return found


class Table:
    """One object of arguments.

    Args:
        value: its bytes.
        where: its JSON pointer.
        warnings: takes what nobody asked for.

    Raises:
        PlanError: it is no object, or has too many members.
    """

    def __init__(self, value: msgspec.Raw | bytes, where: str, warnings: list[str]) -> None:
        try:
            self._given = _members.decode(value) if bytes(value).strip() else {}
        except (ValueError, RecursionError):
            raise PlanError(where, f"expected an object, got {kind_of(value)}") from None
        if len(self._given) > MEMBERS_MAX:
            raise PlanError(where, f"expected at most {MEMBERS_MAX} members")
        self.where = where
        self.warnings = warnings
        self._asked: set[str] = set()

    def at(self, name: str) -> str:
        """JSON pointer of a member."""
        return f"{self.where}/{escape(name)}"

    def raw(self, name: str) -> msgspec.Raw:
        """Any JSON value, byte for byte; ``ABSENT`` = not given.

        Raises:
            PlanError: no valid JSON in depth.
        """
        value = self._value(name)
        if value is not ABSENT:
            self._decode(value, object, name, "JSON")
        return value

    def has(self, name: str) -> bool:
        """Whether it is given and not ``null``."""
        return self._value(name) is not ABSENT

    def kind(self, name: str) -> str:
        """What a member is, in words."""
        return kind_of(self._value(name))

    def text(self, name: str, default: str = "", *, most: int, least: int = 0) -> str:
        """A string; ``least`` and ``most`` characters.

        Raises:
            PlanError: something else.
        """
        value = self._value(name)
        if value is ABSENT:
            if least and not default:
                raise PlanError(self.at(name), "is missing")
            return default
        found = self._decode(value, str, name, "a string")
        return self._checked_text(found, self.at(name), least, most)

    def _checked_text(self, text: str, where: str, least: int, most: int) -> str:
        if not least <= len(text) <= most or (least and not text.strip()):
            bounds = f"{least} to {most}" if least else f"at most {most}"
            raise PlanError(where, f"expected {bounds} characters, got {len(text)}")
        return text

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean.

        Raises:
            PlanError: something else.
        """
        value = self._value(name)
        return default if value is ABSENT else self._decode(value, bool, name, "a boolean")

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``; 3.0 is one.

        Raises:
            PlanError: something else.
        """
        expected = f"an integer from {low} to {high}"
        found = self._number(name, expected)
        if found is None:
            return default
        if found != int(found) or not low <= found <= high:
            raise self._wrong(name, expected)
        return int(found)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from ``low`` to ``high``.

        Raises:
            PlanError: something else.
        """
        expected = f"a number from {low:g} to {high:g}"
        found = self._number(name, expected)
        if found is None:
            return default
        if not low <= found <= high:
            raise self._wrong(name, expected)
        return float(found)

    def _number(self, name: str, expected: str) -> int | float | None:
        value = self._value(name)
        if value is ABSENT:
            return None
        try:
            return msgspec.json.decode(value, type=int | float)
        except ValueError:
            raise self._wrong(name, expected) from None

    def word(self, name: str, words: Sequence[Word], default: Word) -> Word:
        """One of some words.

        Raises:
            PlanError: another one, or no string.
        """
        value = self._value(name)
        if value is ABSENT:
            return default
        expected = f"one of {', '.join(word for word in words if word)}"
        found = self._decode(value, str, name, expected)
        for word in words:
            if word == found and word:
                return word
        raise self._wrong(name, expected)

    def texts(self, name: str, *, most: int, chars: int) -> tuple[str, ...]:
        """An array of strings that are not empty, each once.

        Raises:
            PlanError: something else.
        """
        value = self._value(name)
        if value is ABSENT:
            return ()
        found: dict[str, None] = {}
        for i, one in enumerate(elements_of(value, self.at(name), most)):
            where = f"{self.at(name)}/{i}"
            text = _decoded(one, str, where, "a string")
            found[self._checked_text(text, where, 1, chars)] = None
        return tuple(found)

    def table(self, name: str) -> "Table":
        """An object; without members if it is not given.

        Raises:
            PlanError: something else.
        """
        return Table(self._value(name), self.at(name), self.warnings)

    def each(self, name: str, most: int, make: Callable[["Table"], Made]) -> tuple[Made, ...]:
        """An array of objects, each made into something.

        Raises:
            PlanError: something else, or whatever ``make`` raises.
        """
        value = self._value(name)
        if value is ABSENT:
            return ()
        found: list[Made] = []
        for i, one in enumerate(elements_of(value, self.at(name), most)):
            table = Table(one, f"{self.at(name)}/{i}", self.warnings)
            found.append(make(table))
            table.end()
        return tuple(found)

    def end(self) -> None:
        """Warn of members that nobody asked for."""
        for name in self._given:
            if name not in self._asked and len(self.warnings) < WARNINGS_MAX:
                self.warn(f"{self.at(name)[: 4 * SHOWN_CHARS]} is unknown and was ignored")

    def warn(self, message: str) -> None:
        """Tell the caller something that is no error."""
        self.warnings.append(message)

    def _value(self, name: str) -> msgspec.Raw:
        self._asked.add(name)
        value = self._given.get(name, ABSENT)
        return ABSENT if bytes(value).strip() == b"null" else value

    def _decode(self, value: msgspec.Raw, wanted: type[Made], name: str, expected: str) -> Made:
        return _decoded(value, wanted, self.at(name), expected)

    def _wrong(self, name: str, expected: str) -> PlanError:
        got = _shown(self._given[name])
        return PlanError(self.at(name), f"expected {expected}, got {got}")


def _decoded(value: msgspec.Raw, wanted: type[Made], where: str, expected: str) -> Made:
    try:
        return msgspec.json.decode(value, type=wanted)
    except (ValueError, RecursionError):
        raise PlanError(where, f"expected {expected}, got {kind_of(value)}") from None
