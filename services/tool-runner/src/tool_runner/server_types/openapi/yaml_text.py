"""YAML as JSON would have it: the core schema of YAML 1.2, which OpenAPI asks for.

Built from libyaml's events and not by PyYAML's loaders, which follow YAML 1.1 (``NO`` is false, a
date is no text) and recurse in C, so that a deeply nested text ends the whole process.
"""

import re
from typing import Any, cast

import yaml

__all__ = ["yaml_value"]

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE, _FALSE = frozenset(("true", "True", "TRUE")), frozenset(("false", "False", "FALSE"))
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
_STRING = "tag:yaml.org,2002:str"
_MERGE = "<<"


_COLLECTION_TAGS = frozenset((None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"))


def yaml_value(raw: bytes, depth_max: int, nodes_max: int) -> object:
    """The only document in a text; anchors that are used again are the same object.

    Raises:
        ValueError: it is no YAML, or one that JSON has no form for; or is too deep or too long.
    """
    reading = _Reading(depth_max)
    try:
        for count, event in enumerate(cast("Any", yaml.parse(raw, Loader=yaml.CSafeLoader))):
            if count > 2 * nodes_max:
                raise ValueError(f"more than {nodes_max} values")
            reading.take(event)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    if len(reading.roots) > 1:
        raise ValueError("more than one document")
    return reading.roots[0] if reading.roots else None


class _Frame:
    """A collection that is being read."""

    def __init__(self, value: Any, anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: str | None = None


class _Reading:
    def __init__(self, depth_max: int) -> None:
        self.roots: list[object] = []
        self._depth_max = depth_max
        self._stack: list[_Frame] = []
        self._anchors: dict[str, object] = {}

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            name = str(cast("Any", event).anchor)
            if name not in self._anchors:
                raise ValueError(f"alias {name[:64]} names nothing before it")
            self._put(self._anchors[name])
        elif isinstance(event, yaml.ScalarEvent):
            self._complete(_scalar(event), cast("Any", event).anchor)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            frame = self._stack.pop()
            self._complete(frame.value, frame.anchor)

    def _begin(self, event: Any) -> None:
        if len(self._stack) >= self._depth_max:
            raise ValueError(f"nested deeper than {self._depth_max}")
        if event.tag not in _COLLECTION_TAGS:
            raise ValueError(f"the tag {str(event.tag)[:64]} is not for JSON")
        made: object = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._stack.append(_Frame(made, event.anchor))

    def _complete(self, value: object, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = value
        self._put(value)

    def _put(self, value: object) -> None:
        if not self._stack:
            self.roots.append(value)
            return
        frame = self._stack[-1]
        if isinstance(frame.value, list):
            cast("list[object]", frame.value).append(value)
        elif frame.key is None:
            frame.key = _key(value)
        else:
            key, frame.key = frame.key, None
            _member(cast("dict[str, object]", frame.value), key, value)


def _member(members: dict[str, object], key: str, value: object) -> None:
    if key == _MERGE and isinstance(value, dict | list):
        parts = cast("list[object]", value) if isinstance(value, list) else [value]
        for part in parts:
            if isinstance(part, dict):
                for name, one in cast("dict[str, object]", part).items():
                    members.setdefault(name, one)
        return
    members[key] = value


def _key(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case int() | float():
            return str(value)
        case _:
            raise ValueError("a key is a single value")


def _scalar(event: yaml.ScalarEvent) -> object:
    given = cast("Any", event)
    text = str(given.value)
    if given.style or given.tag == _STRING:
        return text
    if given.tag not in {None, "!"}:
        raise ValueError(f"the tag {str(given.tag)[:64]} is not for JSON")
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
