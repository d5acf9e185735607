"""From the input of a phase to the inputs of its steps: items, shards, and where values go."""

import itertools
from collections.abc import Iterator

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.limits import EDGE_MESSAGE_BYTES
from swarm_coordinator.core import pointers
from swarm_coordinator.core.references import (
    Outputs,
    Reference,
    Template,
    compiled,
    escape,
    source_of,
    value_at,
)
from swarm_coordinator.core.views import PhasePlan, PlanError

__all__ = [
    "INPUTS_BYTES_MAX",
    "INPUT_BYTES_MAX",
    "STEPS_MAX",
    "Inputs",
    "Part",
    "input_where",
    "template_of",
]

STEPS_MAX = 10_000
"""Steps of one phase: what the ready queue of a swarm holds."""

INPUT_BYTES_MAX = EDGE_MESSAGE_BYTES
"""Input of one step, references filled in."""

INPUTS_BYTES_MAX = 64 * 1024 * 1024
"""Inputs of all steps of a phase: a large input times many items would fill the memory."""

_NULL = b"null"


class Part(msgspec.Struct, frozen=True):
    """Input of one step.

    Attributes:
        value: JSON; "" = the phase has no input.
        item: the fan-out item it is for; "" = none.
        holes: pairs of JSON pointers: places in ``value`` that wait for the output of the step
            before, and what they want of it. They hold ``null`` until then.
    """

    value: bytes
    item: bytes = b""
    holes: tuple[tuple[str, str], ...] = ()


def input_where(phase: PhasePlan) -> str:
    """JSON pointer of the input of a phase in the arguments."""
    return f"{phase.where}/input" if phase.where else "/task/input"


def template_of(phase: PhasePlan) -> Template | None:
    """The input of a phase, its references found; None = it has none.

    Raises:
        PlanError: as ``references.compiled``.
    """
    return compiled(phase.input, input_where(phase)) if bytes(phase.input) else None


class Inputs:
    """Makes the inputs of one phase.

    Args:
        phase: the phase.
        outputs: of the phases before.
        chain: whether its steps run one after the other, each with the output of the one before.
    """

    def __init__(self, phase: PhasePlan, outputs: Outputs, *, chain: bool) -> None:
        self._phase = phase
        self._outputs = outputs
        self._chain = chain
        self._template = template_of(phase)
        self._where = input_where(phase)
        self._bytes = 0

    def items(self) -> list[bytes]:
        """Items of the fan-out, in order.

        Raises:
            PlanError: a reference that does not hold, no array, or too many.
        """
        fanout = self._phase.fanout
        if fanout is None:
            return []
        if fanout.shards:
            return self._shards(fanout.shards)
        if not fanout.items_from:
            return _elements(fanout.items, f"{self._phase.where}/fanout/items")
        items = self._items_from(fanout.items_from)
        if len(items) < self._phase.items_min:
            least = self._phase.items_min
            raise PlanError(fanout.items_from, f"{len(items)} items; at least {least} are needed")
        return items

    def _items_from(self, reference: str) -> list[bytes]:
        source, pointer = source_of(reference, f"{self._phase.where}/fanout/itemsFrom")
        try:
            return _elements(self._outputs.at(source, pointer), reference)
        except PlanError:
            if self._phase.optional:
                return []
            raise

    def _shards(self, count: int) -> list[bytes]:
        """The input, cut into parts whose lengths differ by one at most; none is empty."""
        if self._template is None:
            raise PlanError(self._where, "expected an array to cut into shards")
        array = self._template.fill(lambda one: self._value(one, 0, b"", []))
        every = _elements(array, self._where, most=None)
        parts = min(count, len(every))
        ends = [len(every) * i // parts for i in range(parts + 1)] if parts else []
        return [b"[" + b",".join(every[a:b]) + b"]" for a, b in itertools.pairwise(ends)]

    def parts(self, items: list[bytes]) -> Iterator[Part]:
        """Inputs of the steps of a fan-out, one per item.

        Raises:
            PlanError: a reference that does not hold, no place for the item, too large.
        """
        fanout = self._phase.fanout
        template = self._template
        if template is None or (fanout is not None and fanout.shards):
            yield from (Part(self._counted(item), item) for item in items)
            return
        placed = template.refers_to("item", "index")
        for i, item in enumerate(items):
            part = self._filled(template, i, item)
            if not placed:
                part = _merged(part, self._where)
            self._counted(part.value)
            yield part

    def part(self, index: int = 0) -> Part:
        """Input of one step that is not of a fan-out.

        Raises:
            PlanError: a reference that does not hold, or too large.
        """
        if self._template is None:
            return Part(b"")
        part = self._filled(self._template, index, b"")
        self._counted(part.value)
        return part

    def _filled(self, template: Template, index: int, item: bytes) -> Part:
        holes: list[tuple[str, str]] = []
        value = template.fill(lambda one: self._value(one, index, item, holes))
        return Part(value, item, tuple(holes))

    def previous(self) -> bytes:
        """Output of the phase before that steps are given beside their input; "" = none.

        An input that refers to it has it already.
        """
        placed = self._template is not None and self._template.refers_to("previous")
        return b"" if placed or not self._phase.previous else self._before("")

    def _before(self, pointer: str) -> bytes:
        return self._outputs.at(self._phase.previous, pointer)

    def _value(
        self, reference: Reference, index: int, item: bytes, holes: list[tuple[str, str]]
    ) -> bytes:
        where = self._where + reference.place
        match reference.source:
            case "item" | "index" if not item:
                raise PlanError(where, "only a step of a fan-out over items has an item")
            case "item":
                return value_at(item, reference.pointer, "/item")
            case "index":
                return b"%d" % index
            case "previous":
                if self._chain and index:
                    holes.append((reference.place, reference.pointer))
                    return _NULL
                return self._first(reference, where)
            case phase:
                return self._outputs.at(phase, reference.pointer)

    def _first(self, reference: Reference, where: str) -> bytes:
        """What the first step of a chain has for the output of the step before."""
        if self._phase.previous:
            return self._before(reference.pointer)
        if not self._chain:
            raise PlanError(where, "only a step of a chain has a previous one")
        if not bytes(reference.first):
            raise PlanError(where, 'the first step has no previous one: give it "first"')
        return bytes(reference.first)

    def _counted(self, value: bytes) -> bytes:
        self._bytes += len(value)
        if len(value) > INPUT_BYTES_MAX:
            raise PlanError(self._where, f"input of a step is over {INPUT_BYTES_MAX} bytes")
        if self._bytes > INPUTS_BYTES_MAX:
            raise PlanError(self._where, f"inputs of the steps are over {INPUTS_BYTES_MAX} bytes")
        return value


def _elements(array: msgspec.Raw | bytes, where: str, most: int | None = STEPS_MAX) -> list[bytes]:
    if array is ABSENT:
        return []
    try:
        every = pointers.elements(array)
    except pointers.NoSuchPlaceError:
        raise PlanError(where, "expected an array") from None
    if most is not None and len(every) > most:
        raise PlanError(where, f"{len(every)} items; at most {most}")
    return [bytes(one) for one in every]


def _merged(part: Part, where: str) -> Part:
    """An object with the members of its item put over its own."""
    try:
        whole = pointers.members(part.value)
        over = pointers.members(part.item)
    except pointers.NoSuchPlaceError:
        raise PlanError(
            where, 'expected {"$ref": "/item"} where the item goes: input or item is no object'
        ) from None
    whole.update(over)
    hidden = {escape(name) for name in over}
    holes = tuple(hole for hole in part.holes if hole[0].split("/")[1] not in hidden)
    return Part(msgspec.json.encode(whole), part.item, holes)
