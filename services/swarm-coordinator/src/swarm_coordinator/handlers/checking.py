"""Whether arguments fit the listed schema, said with the place: a JSON pointer into them.

What is not wrong is put right first, because clients differ: ``null`` for an optional member
counts as left out, ``60.0`` for a whole number as ``60``. Members that nobody declared are
accepted and named, never silently obeyed.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import jsonschema_rs
import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.handlers.answers import bad
from swarm_coordinator.handlers.schemas import Schema

__all__ = ["Checked", "Checker"]

PROBLEM_CHARS_MAX = 300
"""Longest text about a problem: the validator quotes the offending value in full."""
WARNINGS_MAX = 20
_DEPTH_MAX = 16
_CHOICES = ("oneOf", "anyOf")
_KINDS = frozenset(("type", "enum", *_CHOICES))
"""A schema with one of these says what it takes; one without takes anything, null too."""
_Object = dict[str, object]


class Checked(msgspec.Struct, frozen=True):
    """Arguments that fit, as bytes to decode, and what of them nobody declared."""

    arguments: msgspec.Raw
    warnings: tuple[str, ...]


class Checker:
    """One tool's schema, compiled.

    Args:
        schema: as listed.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._validator = jsonschema_rs.Draft202012Validator(_typed(schema))

    def check(self, arguments: msgspec.Raw) -> Checked:
        """Arguments, put right.

        Raises:
            MeshError: ``params``, with the place in ``data.where``.
        """
        raw = arguments if memoryview(arguments).nbytes else msgspec.Raw(b"{}")
        try:
            value: object = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MeshError(ErrorKind.PARAMS, f"arguments cannot be read: {error}") from None
        if not isinstance(value, dict):
            raise bad("", "arguments must be an object")
        found = cast("_Object", value)
        if _mended(self._schema, found, 0):
            raw = msgspec.Raw(msgspec.json.encode(found | self._free(raw, found)))
        if not self._validator.is_valid(found):
            raise _problem(next(iter(self._validator.iter_errors(found))))
        unknown: list[str] = []
        for path in _unknown(self._schema, found, "", 0):
            if len(unknown) == WARNINGS_MAX:
                break
            unknown.append(f"unknown argument {path} was ignored")
        return Checked(raw, tuple(unknown))

    def _free(self, raw: msgspec.Raw, value: _Object) -> dict[str, msgspec.Raw]:
        """Members that may be anything: nothing of them was put right, so they keep their bytes."""
        members = _properties(self._schema)
        given = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        return {
            name: given[name]
            for name in value
            if not members.get(name, _ANY).keys() - {"description"}
        }


_ANY: Schema = {}


def _problem(error: jsonschema_rs.ValidationError) -> MeshError:
    where = "".join(f"/{part}" for part in error.instance_path)
    message = error.message
    if len(message) > PROBLEM_CHARS_MAX:
        message = message[:PROBLEM_CHARS_MAX] + "…"
    return bad(where, message)


def _properties(schema: Schema) -> Mapping[str, Schema]:
    return cast("Mapping[str, Schema]", schema.get("properties", {}))


def _typed(schema: Schema) -> _Object:
    """The same schema, whose problems name the place: of alternatives, the one of that type.

    "Is not valid under any of the given schemas" helps nobody; ``if`` of a type does.
    """
    made: _Object = {}
    for key, value in schema.items():
        if key == "properties":
            made[key] = {name: _typed(one) for name, one in _properties(schema).items()}
        elif key in {"items", "additionalProperties"} and isinstance(value, Mapping):
            made[key] = _typed(cast("Schema", value))
        elif key in _CHOICES:
            branches = [_typed(one) for one in cast("list[Schema]", value)]
            kinds = [str(one.get("type", "string")) for one in branches]
            made["type"] = kinds
            made["allOf"] = [
                {"if": {"type": kind}, "then": one}
                for kind, one in zip(kinds, branches, strict=True)
            ]
        else:
            made[key] = value
    return made


def _branch(schema: Schema, value: object) -> Schema:
    """Of alternatives, the object one where the value is an object."""
    for choice in _CHOICES:
        for one in cast("list[Schema]", schema.get(choice, [])):
            if isinstance(value, dict) and one.get("type") == "object":
                return one
    return schema


def _unknown(schema: Schema, value: object, path: str, depth: int) -> Iterator[str]:
    """Pointers to members that no schema declares."""
    schema = _branch(schema, value)
    if depth > _DEPTH_MAX or "additionalProperties" in schema:
        return
    if isinstance(value, dict):
        members = _properties(schema)
        if not members and depth:
            return  # an object of any members
        for name, one in cast("_Object", value).items():
            if name not in members:
                yield f"{path}/{name[:64]}"
            else:
                yield from _unknown(members[name], one, f"{path}/{name}", depth + 1)
    elif isinstance(value, list) and "items" in schema:
        items = cast("Schema", schema["items"])
        for index, one in enumerate(cast("list[object]", value)):
            yield from _unknown(items, one, f"{path}/{index}", depth + 1)


def _mended(schema: Schema, value: object, depth: int) -> bool:
    """Put right what clients write differently; whether anything was changed."""
    schema = _branch(schema, value)
    if depth > _DEPTH_MAX:
        return False
    changed = False
    if isinstance(value, dict):
        held = cast("_Object", value)
        needed = cast("list[str]", schema.get("required", []))
        for name, one in _properties(schema).items():
            if name not in held:
                continue
            number = held[name]
            if number is None and name not in needed and _KINDS & one.keys():
                del held[name]
                changed = True
            elif one.get("type") == "integer" and isinstance(number, float) and number % 1 == 0:
                held[name] = int(number)
                changed = True
            else:
                changed |= _mended(one, number, depth + 1)
    elif isinstance(value, list) and "items" in schema:
        items = cast("Schema", schema["items"])
        for one in cast("list[object]", value):
            changed |= _mended(items, one, depth + 1)
    return changed
