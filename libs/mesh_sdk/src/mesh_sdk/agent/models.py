"""Values of foreign types: pydantic models are read and written without importing pydantic.

What a person annotates decides: msgspec reads Structs, dataclasses, TypedDicts and plain types
itself; a class that validates like a pydantic model is asked to do so itself.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import msgspec

__all__ = [
    "decode_hook",
    "encode",
    "encode_hook",
    "is_field",
    "is_model",
    "readable",
    "schema_hook",
    "schema_of",
]

_TEXT_CHARS_MAX = 400
_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")


def is_model(kind: object) -> bool:
    """Whether a class is a pydantic (2) model, by what it can do."""
    return (
        isinstance(kind, type)
        and callable(getattr(kind, "model_validate", None))
        and callable(getattr(kind, "model_json_schema", None))
    )


def is_field(value: object) -> bool:
    """Whether it is what ``pydantic.Field(…)`` gives."""
    return type(value).__name__ == "FieldInfo" and hasattr(value, "metadata")


def readable(kind: Any) -> Any:
    """An annotation with the bounds and description of ``pydantic.Field`` as msgspec reads them.

    Without this ``Annotated[int, Field(ge=1)]`` would be a bare ``int``, and nobody would notice.
    A plain text in ``Annotated`` is a description.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return Union[tuple(readable(one) for one in parts)]  # noqa: UP007 - made while running
    if origin in (list, dict, set, frozenset, tuple):
        return cast("Any", origin)[tuple(readable(one) for one in parts)]
    if origin is not Annotated:
        return kind
    inner, *notes = parts
    inner = readable(inner)
    told: dict[str, Any] = {}
    rest: list[object] = []
    for one in notes:
        if isinstance(one, msgspec.Meta):
            rest.append(one)
        elif isinstance(one, str):
            told["description"] = one
        else:
            told.update(_told(one))
    said = {name: told.pop(name) for name in ("title", "description") if name in told}
    if told:
        inner = _bounded(inner, msgspec.Meta(**told))
    for one in (*rest, *((msgspec.Meta(**said),) if said else ())):
        inner = Annotated[inner, one]
    return inner


def _bounded(kind: Any, bounds: msgspec.Meta) -> Any:
    """Bounds of ``int | None`` are those of the ``int``."""
    parts = get_args(kind)
    if type(None) not in parts:
        return Annotated[kind, bounds]
    return Union[tuple(one if one is type(None) else Annotated[one, bounds] for one in parts)]  # noqa: UP007 - made while running


def _told(note: object) -> Iterator[tuple[str, Any]]:
    if is_field(note):
        for name in ("title", "description"):
            text = getattr(note, name, None)
            if text:
                yield name, text
        for one in cast("Iterable[object]", getattr(note, "metadata", ())):
            yield from _told(one)
        return
    for name in _BOUNDS:
        bound = getattr(note, name, None)
        if bound is not None and not callable(bound):
            yield name, getattr(bound, "pattern", bound)


def decode_hook(kind: type, value: object) -> object:
    """Make a model of a decoded JSON value; msgspec adds the path to the error.

    Raises:
        ValueError: it does not fit, with the member and what was expected.
        NotImplementedError: no type we know how to make; so msgspec wants it of a hook.
    """
    if not is_model(kind):
        raise NotImplementedError(f"values of type {kind.__name__} cannot be read from JSON")
    validate = cast("Callable[[object], object]", getattr(kind, "model_validate"))  # noqa: B009
    try:
        return validate(value)
    except ValueError as error:
        raise ValueError(_why(error)) from None


def _why(error: ValueError) -> str:
    """``days: Input should be a valid integer`` of a pydantic error."""
    listed = getattr(error, "errors", None)
    if not callable(listed):
        return str(error)[:_TEXT_CHARS_MAX]
    found = cast("list[Mapping[str, Any]]", listed())
    parts: list[str] = []
    for one in found[:5]:
        place = ".".join(str(part) for part in one.get("loc", ()))
        parts.append(f"{place}: {one.get('msg', '')}" if place else str(one.get("msg", "")))
    return "; ".join(parts)[:_TEXT_CHARS_MAX]


def encode_hook(value: object) -> object:
    """A model as plain JSON values.

    Raises:
        TypeError: no type we know how to write.
    """
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", by_alias=True)
    raise TypeError(f"values of type {type(value).__name__} cannot be written as JSON")


_encoder = msgspec.json.Encoder(enc_hook=encode_hook)


def encode(value: object) -> bytes:
    """Compact JSON of any value that a tool may return.

    Raises:
        TypeError: one that has no JSON form; the encoder would write NaN and infinity as null,
            which nobody said and an output schema may not allow.
    """
    data = _encoder.encode(value)
    if b"null" in data and _not_finite(msgspec.to_builtins(value, enc_hook=encode_hook)):
        raise TypeError("NaN and infinity have no JSON form")
    return data


def _not_finite(value: object) -> bool:
    match value:
        case float():
            return not math.isfinite(value)
        case dict():
            return any(map(_not_finite, cast("dict[object, object]", value).values()))
        case list() | tuple():
            return any(map(_not_finite, cast("list[object]", value)))
        case _:
            return False


_DEFS = "#/$defs/"


def schema_hook(kind: type) -> dict[str, Any]:
    """JSON Schema of a model; its own definitions stay inside until ``schema_of`` lifts them.

    Their names begin with that of the model, so two models may each have an ``Inner``.
    """
    if not is_model(kind):
        raise NotImplementedError(f"type {kind.__name__} has no JSON Schema")
    make = cast("Callable[..., dict[str, Any]]", getattr(kind, "model_json_schema"))  # noqa: B009
    # Brackets of a generic model's name have no place in a reference.
    own = re.sub(r"\W", "_", kind.__name__)
    schema = make(ref_template=f"{_DEFS}{own}.{{model}}", by_alias=True)
    definitions = cast("dict[str, Any]", schema.pop("$defs", {}))
    if definitions:
        schema["$defs"] = {f"{own}.{name}": one for name, one in definitions.items()}
    return schema


def schema_of(kind: Any) -> dict[str, Any]:
    """JSON Schema 2020-12 of a type, complete in itself; the root is never a reference.

    Raises:
        TypeError: there is none for this type.
    """
    (root,), shared = msgspec.json.schema_components(
        (kind,), schema_hook=schema_hook, ref_template=f"{_DEFS}{{name}}"
    )
    lifted: dict[str, Any] = {}
    schema = cast("dict[str, Any]", _lift(dict(root), lifted))
    definitions = {name: _lift(one, lifted) for name, one in dict(shared).items()}
    definitions.update(lifted)
    reference = schema.get("$ref")
    if isinstance(reference, str) and len(schema) == 1:
        name = reference.removeprefix(_DEFS)
        schema = dict(cast("dict[str, Any]", definitions[name]))
        if not _refers(definitions, reference):
            del definitions[name]
    if definitions:
        schema["$defs"] = definitions
    return schema


def _refers(tree: object, reference: str) -> bool:
    if isinstance(tree, dict):
        table = cast("dict[str, object]", tree)
        return table.get("$ref") == reference or any(
            _refers(one, reference) for one in table.values()
        )
    if isinstance(tree, list):
        return any(_refers(one, reference) for one in cast("list[object]", tree))
    return False


def _lift(tree: object, lifted: dict[str, Any]) -> object:
    """Move the definitions that models brought along to the root."""
    if isinstance(tree, list):
        return [_lift(one, lifted) for one in cast("list[object]", tree)]
    if not isinstance(tree, dict):
        return tree
    table = dict(cast("dict[str, Any]", tree))
    own = table.pop("$defs", None)
    if isinstance(own, dict):
        for name, one in cast("dict[str, Any]", own).items():
            lifted[name] = _lift(one, lifted)
    return {name: _lift(one, lifted) for name, one in table.items()}
