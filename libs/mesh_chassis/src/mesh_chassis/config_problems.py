"""Everything that is wrong with a configuration file, not only the first thing.

``config.load`` ends a start with one line, which is right there. A person who mends a file wants
the whole list, so here every key is looked at by itself: what cannot be used is reported and left
out, and the rest is still converted for the checks that come after.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec import inspect

from mesh_chassis.config import ConfigError, expand, filled, read_table, unknown_reason
from mesh_chassis.config_shape import allowed_of, item_of, struct_of

__all__ = ["PROBLEMS_MAX", "Looked", "look"]

PROBLEMS_MAX = 100
"""Problems that are reported; a file with more is another kind of file."""

_PATH = re.compile(r"^(?P<text>.*?) - at `\$(?P<path>[^`]*)`$", re.DOTALL)

T = TypeVar("T", bound=msgspec.Struct)
Table = dict[str, object]


class Looked(Generic[T]):
    """What was found in a file.

    Attributes:
        problems: one per key that cannot be used, in the order of the file.
        content: the rest; None when the file cannot be read at all.
        kept: key of an array of tables → place in the file of each table in ``content``.
    """

    def __init__(
        self,
        problems: list[ConfigError],
        content: T | None,
        kept: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.problems = problems
        self.content = content
        self.kept = kept or {}


def look(
    struct_type: type[T],
    path: Path | None,
    env: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> Looked[T]:
    """Read a configuration and say everything that is wrong with its keys and values.

    Args:
        struct_type: as of ``config.load``.
        path: TOML file; None = defaults and overrides only.
        env: for ``${VAR}``; ``MESH_…`` variables are the business of ``load``.
        overrides: dotted key → value; valid ones.
    """
    source = str(path) if path is not None else ""
    try:
        raw = read_table(path) if path is not None else {}
    except ConfigError as error:
        return Looked([error], None)
    found = _Look(source, env)
    table = found.table(struct_type, raw, "")
    for key, value in (overrides or {}).items():
        _place(table, key, value)
    try:
        content = msgspec.convert(table, struct_type)
    except msgspec.ValidationError as error:
        # What only the whole can tell; a missing table has been reported already.
        if not found.problems:
            found.add("", str(error))
        return Looked(found.problems[:PROBLEMS_MAX], None)
    return Looked(found.problems[:PROBLEMS_MAX], content, found.kept)


class _Look:
    def __init__(self, source: str, env: Mapping[str, str]) -> None:
        self._source = source
        self._env = env
        self.problems: list[ConfigError] = []
        self.kept: dict[str, list[int]] = {}

    def add(self, key: str, reason: str) -> None:
        self.problems.append(ConfigError(self._source, key, reason))

    def table(self, struct_type: type[msgspec.Struct], raw: Mapping[str, object], at: str) -> Table:
        """The usable keys of a table, expanded."""
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct_type)}
        usable: Table = {}
        for name, value in raw.items():
            key = f"{at}.{name}" if at else name
            field = fields.get(name)
            if field is None:
                self.add(key, unknown_reason(key, tuple(fields)))
                continue
            kept = self._value(inspect.type_info(field.type), field.type, value, key)
            if kept is not None:
                usable[name] = kept
        for name, field in fields.items():
            if field.required and name not in raw:
                self.add(f"{at}.{name}" if at else name, "required")
        return usable

    def _value(self, shape: inspect.Type, kind: object, value: object, key: str) -> object:
        """The value as far as it can be used; None = not at all."""
        struct = struct_of(shape)
        if struct is not None and isinstance(value, dict):
            return self.table(struct, cast("Table", value), key)
        item = item_of(shape)
        inner = struct_of(item) if item is not None else None
        if inner is not None and isinstance(value, list):
            return list(self._items(inner, cast("list[object]", value), key))
        try:
            known = filled(value, expand(value, self._env, self._source, key), kind)
            msgspec.convert(known, cast("type[Any]", kind))
        except ConfigError as error:
            self.problems.append(error)
            return None
        except msgspec.ValidationError as error:
            self.add(*_said(str(error), key, allowed_of(shape)))
            return None
        return known

    def _items(
        self, inner: type[msgspec.Struct], values: list[object], key: str
    ) -> Iterator[object]:
        """The tables of an array; one with problems is left out, and its place stays taken."""
        for at, value in enumerate(values):
            before = len(self.problems)
            if not isinstance(value, dict):
                self.add(f"{key}[{at}]", "must be a table")
                continue
            table = self.table(inner, cast("Table", value), f"{key}[{at}]")
            if len(self.problems) == before:
                self.kept.setdefault(key, []).append(at)
                yield table


def _said(text: str, key: str, allowed: tuple[str, ...]) -> tuple[str, str]:
    found = _PATH.fullmatch(text)
    if found is not None:
        text, key = found["text"], f"{key}{found['path']}"
    return key, f"{text}; allowed: {', '.join(allowed)}" if allowed else text


def _place(table: Table, key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        table = cast("Table", table.setdefault(parent, {}))
    table[last] = value
