"""The shape of a configuration Struct: its keys, leaf types and allowed values.

``config`` uses it to name what a person wrote wrongly; msgspec alone says only that something
is unknown. Pure type inspection, no values.
"""

import difflib
from collections.abc import Iterator, Mapping
from enum import Enum

import msgspec
from msgspec import inspect

__all__ = [
    "Leaf",
    "allowed_of",
    "allowed_values",
    "closest",
    "item_of",
    "leaves",
    "struct_of",
    "unknown_key",
]

DEPTH_MAX = 8
"""Nested tables; deeper ones are not configuration but a document."""


class Leaf(msgspec.Struct, frozen=True):
    """A key that holds a value, not a table.

    Attributes:
        key: dotted key.
        type: annotation of the field, as msgspec converts to it.
        sequence: whether the value is a list.
    """

    key: str
    type: object
    sequence: bool


def leaves(struct_type: type[msgspec.Struct], at: str = "") -> Iterator[Leaf]:
    """Every key that may be set from outside the file; arrays of tables are left out."""
    for field in msgspec.structs.fields(struct_type):
        key = f"{at}.{field.encode_name}" if at else field.encode_name
        shape = inspect.type_info(field.type)
        nested = struct_of(shape)
        if nested is not None:
            if key.count(".") < DEPTH_MAX:
                yield from leaves(nested, key)
            continue
        item = item_of(shape)
        if item is not None and struct_of(item) is not None:
            continue
        if isinstance(_plain(shape), inspect.DictType):
            continue
        yield Leaf(key, field.type, item is not None)


def unknown_key(
    struct_type: type[msgspec.Struct], table: Mapping[str, object], at: str = ""
) -> tuple[str, tuple[str, ...]] | None:
    """The first key of ``table`` that the Struct does not have, with the keys it has."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct_type)}
    for name, value in table.items():
        key = f"{at}.{name}" if at else name
        field = fields.get(name)
        if field is None:
            return key, tuple(fields)
        stray = _unknown_in(inspect.type_info(field.type), value, key)
        if stray is not None:
            return stray
    return None


def allowed_values(struct_type: type[msgspec.Struct], key: str) -> tuple[str, ...]:
    """Values of an enumeration or literal at ``key``; empty when it is neither."""
    for leaf in leaves(struct_type):
        if leaf.key == key:
            return allowed_of(inspect.type_info(leaf.type))
    return ()


def allowed_of(shape: inspect.Type) -> tuple[str, ...]:
    """Values of an enumeration or literal; empty when it is neither."""
    shape = _plain(shape)
    if isinstance(shape, inspect.EnumType):
        return tuple(str(_value(member)) for member in shape.cls)
    if isinstance(shape, inspect.LiteralType):
        return tuple(str(value) for value in shape.values)
    return ()


def closest(name: str, known: tuple[str, ...]) -> str:
    """The known name that looks most like ``name``; "" when none does."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return near[0] if near else ""


def _value(member: object) -> object:
    return member.value if isinstance(member, Enum) else member


def _plain(shape: inspect.Type) -> inspect.Type:
    """Look through metadata and through ``X | None``."""
    while isinstance(shape, inspect.Metadata):
        shape = shape.type
    if isinstance(shape, inspect.UnionType):
        others = [one for one in shape.types if not isinstance(one, inspect.NoneType)]
        if len(others) == 1:
            return _plain(others[0])
    return shape


def struct_of(shape: inspect.Type) -> type[msgspec.Struct] | None:
    """The Struct of a table, an optional one too; None = it is no table."""
    shape = _plain(shape)
    return shape.cls if isinstance(shape, inspect.StructType) else None


def item_of(shape: inspect.Type) -> inspect.Type | None:
    """What a list holds; None = it is no list."""
    shape = _plain(shape)
    match shape:
        case (
            inspect.VarTupleType(item_type=item)
            | inspect.ListType(item_type=item)
            | inspect.SetType(item_type=item)
            | inspect.FrozenSetType(item_type=item)
        ):
            return item
        case _:
            return None


def _unknown_in(shape: inspect.Type, value: object, key: str) -> tuple[str, tuple[str, ...]] | None:
    nested = struct_of(shape)
    if nested is not None and isinstance(value, dict):
        return unknown_key(nested, value, key)
    item = item_of(shape)
    if item is not None and isinstance(value, list):
        for i, one in enumerate(value):
            stray = _unknown_in(item, one, f"{key}[{i}]")
            if stray is not None:
                return stray
    plain = _plain(shape)
    if isinstance(plain, inspect.DictType) and isinstance(value, dict):
        for name, one in value.items():
            stray = _unknown_in(plain.value_type, one, f"{key}.{name}")
            if stray is not None:
                return stray
    return None
