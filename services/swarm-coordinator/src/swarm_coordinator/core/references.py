"""References in the input of a phase: ``{"$ref": "/lint/output/0/file"}`` stands for a value.

The pointer (RFC 6901) begins with a phase and ``output``, or with one of

- ``/item/…``: the item of a fan-out that the step is for, ``/index``: its number from 0;
- ``/previous/…``: in a chain, the output of the step before; ``"first": value`` beside it is what
  the first step gets.

Only inputs are searched for references. Items and outputs are data: what looks like a reference
in them stays what it is, so no agent can make another one read what it was not given.
A value goes in byte for byte, and a reference that names nothing is an error, never empty text.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.limits import JSON_DEPTH_MAX
from swarm_coordinator.core import pointers
from swarm_coordinator.core.views import PlanError

__all__ = [
    "REFERENCES_MAX",
    "RESERVED",
    "Outputs",
    "Reference",
    "Template",
    "compiled",
    "escape",
    "pointer_fault",
    "source_of",
]

REFERENCES_MAX = 1_000
"""References in one input."""

RESERVED = ("item", "index", "previous")
"""First tokens that are no phases; no phase may have such a name."""

_MARK = re.compile(rb"\x00(\d+)\x00")  # JSON never holds this byte: it escapes control characters
_NAMES_SHOWN = 8
_NAME_CHARS_SHOWN = 40


def escape(token: str) -> str:
    """One token of a JSON pointer."""
    return token.replace("~", "~0").replace("/", "~1")


def pointer_fault(pointer: str) -> str:
    """What is wrong with a JSON pointer, public text; "" = nothing."""
    if pointer and not pointer.startswith("/"):
        return "expected a JSON pointer, which begins with /"
    if re.search(r"~(?![01])", pointer):
        return "expected a JSON pointer: ~ is written ~0, and / in a name ~1"
    return ""


def source_of(pointer: str, where: str) -> tuple[str, str]:
    """Where a reference leads: (phase or reserved word, pointer into its value).

    Raises:
        PlanError: it is no such pointer; ``where`` is its place.
    """
    fault = pointer_fault(pointer)
    if fault:
        raise PlanError(where, fault)
    first, _, rest = pointer[1:].partition("/")
    source = first.replace("~1", "/").replace("~0", "~")
    inner = f"/{rest}" if rest or pointer.endswith("/") else ""
    if source in RESERVED:
        if source == "index" and inner:
            raise PlanError(where, "expected /index, which is a number and has no members")
        return source, inner
    if inner != "/output" and not inner.startswith("/output/"):
        raise PlanError(where, "expected /phase/output/…, /item/…, /index or /previous/…")
    return source, inner.removeprefix("/output")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """One reference of an input.

    Attributes:
        source: phase, or one of ``RESERVED``.
        pointer: into the value of the source; "" = the whole.
        place: JSON pointer of the reference in the input.
        first: for ``previous``; ``ABSENT`` = none.
    """

    source: str
    pointer: str
    place: str
    first: msgspec.Raw = ABSENT


class Template(msgspec.Struct, frozen=True):
    """An input cut at its references: text, reference, text, … text."""

    texts: tuple[bytes, ...]
    references: tuple[Reference, ...] = ()

    def fill(self, value_of: Callable[[Reference], bytes]) -> bytes:
        """The input with values in the place of its references."""
        if not self.references:
            return self.texts[0]
        parts = [self.texts[0]]
        for reference, text in zip(self.references, self.texts[1:], strict=True):
            parts += (value_of(reference), text)
        return b"".join(parts)

    def refers_to(self, *sources: str) -> bool:
        """Whether any reference leads there."""
        return any(reference.source in sources for reference in self.references)


def compiled(value: msgspec.Raw | bytes, where: str) -> Template:
    """Find the references of an input.

    Args:
        value: JSON; not ``ABSENT``.
        where: JSON pointer of the input, for errors.

    Raises:
        PlanError: malformed, too deep, or a reference that cannot be one.
    """
    data = bytes(value)
    try:
        decoded = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        raise PlanError(where, "expected JSON") from None
    if b"$ref" not in data:
        return Template((data,))
    found: list[Reference] = []
    marked = _marked(decoded, (), where, found)
    if not found:
        return Template((data,))
    # re.split gives text, number, text, …: the numbers are those of `found`, in order.
    return Template(tuple(_MARK.split(msgspec.json.encode(marked))[::2]), tuple(found))


def _marked(value: object, path: tuple[str, ...], where: str, found: list[Reference]) -> object:
    """The same value with a mark in the place of each reference, noted in ``found``."""
    if len(path) > JSON_DEPTH_MAX:
        raise PlanError(where, f"nested deeper than {JSON_DEPTH_MAX}")
    if isinstance(value, list):
        every: list[object] = value
        return [_marked(one, (*path, str(i)), where, found) for i, one in enumerate(every)]
    if not isinstance(value, dict):
        return value
    members: dict[str, object] = value
    pointer = members.get("$ref")
    if isinstance(pointer, str) and pointer.startswith("/"):
        found.append(_reference(members, pointer, path, where))
        if len(found) > REFERENCES_MAX:
            raise PlanError(where, f"more than {REFERENCES_MAX} references")
        return msgspec.Raw(b"\x00%d\x00" % (len(found) - 1))
    return {
        name: _marked(one, (*path, escape(name)), where, found) for name, one in members.items()
    }


def _reference(
    members: Mapping[str, object], pointer: str, path: Sequence[str], where: str
) -> Reference:
    place = "".join(f"/{token}" for token in path)
    source, inner = source_of(pointer, where + place)
    unknown = set(members) - {"$ref"} - ({"first"} if source == "previous" else set[str]())
    if unknown:
        name = min(unknown)
        raise PlanError(f"{where}{place}/{escape(name)}", "nothing of the kind beside this $ref")
    first = ABSENT
    if "first" in members:
        first = msgspec.Raw(msgspec.json.encode(members["first"]))
    return Reference(source=source, pointer=inner, place=place, first=first)


class Outputs:
    """Outputs of phases that have ended, as references read them."""

    def __init__(self, outputs: Mapping[str, msgspec.Raw | bytes]) -> None:
        """``outputs``: phase → JSON; phases without an output are not in it."""
        self._outputs = outputs
        self._read: dict[tuple[str, str], bytes] = {}

    def at(self, phase: str, pointer: str) -> bytes:
        """The value that a reference names.

        Raises:
            PlanError: the phase has no output, or the pointer names nothing in it.
        """
        key = (phase, pointer)
        value = self._read.get(key)
        if value is None:
            place = f"/{escape(phase)}/output"
            whole = self._outputs.get(phase, ABSENT)
            if not bytes(whole):
                raise PlanError(place, f"phase {phase} has no output")
            value = self._read[key] = value_at(whole, pointer, place)
        return value


def value_at(value: msgspec.Raw | bytes, pointer: str, place: str) -> bytes:
    """What a pointer names in a value; ``place`` is the pointer of the value itself.

    Raises:
        PlanError: nothing; the message says what there is instead.
    """
    try:
        return pointers.at(value, pointer)
    except pointers.NoSuchPlaceError:
        raise PlanError(place + pointer, f"nothing is there{_instead(value, pointer)}") from None


def _instead(value: msgspec.Raw | bytes, pointer: str) -> str:
    """The deepest value on the way, in words."""
    there, whole = "", bytes(value)
    for token in pointer[1:].split("/"):
        try:
            whole = pointers.at(whole, f"/{token}")
        except pointers.NoSuchPlaceError:
            break
        there += f"/{token}"
    name = there or "the value"
    head = whole.lstrip()[:1]
    if head == b"{":
        names = [name[:_NAME_CHARS_SHOWN] for name in pointers.members(whole)]
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
        return f"; {name} is an object with {shown}" if names else f"; {name} is an empty object"
    if head == b"[":
        return f"; {name} is an array of {len(pointers.elements(whole))}"
    return f"; {name} is neither an object nor an array"
