"""Input of a step as a type, so that a wrong one is refused with the place named."""

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mesh_agents.contract import StepFailedError, StepInput

if TYPE_CHECKING:
    from mesh_agents.contract import Json as JsonValue
else:
    # A type that contains itself is nothing that msgspec can decode.
    JsonValue = Any

__all__ = ["Input", "JsonValue", "input_of", "refuse"]

Wanted = TypeVar("Wanted", bound="Input")


class Input(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a step is asked: JSON, camelCase; a field that nobody reads is refused, not ignored."""


def input_of(step: StepInput, wanted: type[Wanted]) -> Wanted:
    """``payload.input`` as ``wanted``.

    A shard of a fan-out stands where the plan put it: the input is the whole question.

    Raises:
        StepFailedError: ``input``, with the path of the field.
    """
    try:
        return msgspec.convert(step.payload.get("input"), wanted)
    except msgspec.ValidationError as error:
        raise refuse(f"input: {error}") from None


def refuse(message: str) -> StepFailedError:
    """A failure that no other attempt and no other agent would avoid."""
    return StepFailedError(message, type="input", retryable=False, outcome="not_executed")
