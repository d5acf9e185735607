"""Schemas of OpenAPI as JSON Schema 2020-12, which tools have.

References are put in place as long as that stays small, because many clients cannot follow them;
a schema that contains itself, and what is too much, become ``$defs``. Where even those are too much
the rest allows anything: then the API itself says what is wrong.

Input is as strict as the document. Output promises kinds and names only: strict clients throw a
result away that breaks its promise, and few APIs keep to every word of their documents.
"""

import re
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, cast

from tool_runner.server_types.openapi.references import References, mapping

__all__ = ["Schemas"]

INLINE_SHARE = 3
"""References are put in place for the first third of what one tool may hold."""
INLINE_DEPTH_MAX = 8
DESCRIPTION_CHARS_MAX = 500
ENUM_SHOWN_MAX = 32

_PLAIN = frozenset(
    (
        "type", "title", "description", "default", "enum", "const", "format", "pattern",
        "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
        "multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
        "required", "deprecated", "minContains", "maxContains", "dependentRequired",
        "contentEncoding", "contentMediaType",
    )
)  # fmt: skip
_ONE = frozenset(
    ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else",
     "unevaluatedItems", "unevaluatedProperties")
)  # fmt: skip
_MANY = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_NAMED = frozenset(("properties", "patternProperties", "dependentSchemas"))
_ANNOTATIONS = frozenset(("title", "description", "default", "deprecated", "readOnly", "writeOnly"))
_PROMISED_PLAIN = frozenset(("type", "title", "description"))
_PROMISED_ONE = frozenset(("items", "additionalProperties"))
_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")


class Schemas:
    """Schemas of one tool, all in one direction.

    Args:
        references: of the document.
        old: the dialect is that of OpenAPI 3.0.
        nodes_max: schemas in all; further ones allow anything.
        way: ``in`` = what a caller sends, ``out`` = what it may expect.
    """

    def __init__(
        self,
        references: References,
        *,
        old: bool,
        nodes_max: int,
        way: Literal["in", "out"] = "in",
    ) -> None:
        self._references = references
        self._old = old
        self._out = way == "out"
        self._hidden = "writeOnly" if self._out else "readOnly"
        self._nodes = 0
        self._nodes_max = nodes_max
        self._names: dict[str, str] = {}
        self._waiting: deque[str] = deque()
        self._inlining = True

    def convert(self, schema: object) -> dict[str, Any]:
        """One schema, as an object.

        Raises:
            DocumentError: a reference in it leads nowhere or outside.
        """
        found = self._convert(schema, ())
        return {"not": {}} if found is False else {} if found is True else found

    def definitions(self) -> dict[str, Any]:
        """What the schemas converted so far refer to, for ``$defs``.

        Raises:
            DocumentError: as ``convert``.
        """
        self._inlining = False
        made: dict[str, Any] = {}
        while self._waiting:
            reference = self._waiting.popleft()
            target = self._references.at(reference)
            made[self._names[reference]] = self._convert(target, ())
        return made

    def _convert(self, schema: object, inside: tuple[str, ...]) -> dict[str, Any] | bool:
        self._nodes += 1
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict) or self._nodes > self._nodes_max:
            return {}
        given = cast("dict[str, Any]", schema)
        if "$ref" in given:
            return self._referred(given, inside)
        if self._out:
            return self._promised(given, inside)
        made: dict[str, Any] = {}
        for key, value in given.items():
            if key in _PLAIN:
                made[key] = _shortened(value) if key == "description" else value
            elif key in _ONE:
                made[key] = self._convert(value, inside)
            elif key in _MANY and isinstance(value, list):
                made[key] = [self._convert(one, inside) for one in cast("list[object]", value)]
            elif key in _NAMED:
                made[key] = self._named(key, value, inside)
        self._drop_hidden(given, made)
        return _modern(given, made) if self._old else made

    def _promised(self, given: Mapping[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
        """Kinds and names of a result; null everywhere, for that is what APIs forget to say."""
        made: dict[str, Any] = {}
        for key, value in given.items():
            if key == "type":
                kinds = cast("list[str]", value) if isinstance(value, list) else [value]
                made["type"] = list(dict.fromkeys((*kinds, "null")))
            elif key in _PROMISED_PLAIN:
                made[key] = _shortened(value) if key == "description" else value
            elif key in _PROMISED_ONE and isinstance(value, dict):
                made[key] = self._convert(cast("object", value), inside)
            elif key == "properties":
                made[key] = self._named(key, value, inside)
            elif key in {"allOf", "anyOf", "oneOf"} and isinstance(value, list):
                parts = [self._convert(one, inside) for one in cast("list[object]", value)]
                made["allOf" if key == "allOf" else "anyOf"] = parts
        allowed = given.get("enum")
        if isinstance(allowed, list):
            shown = ", ".join(str(one) for one in cast("list[object]", allowed)[:ENUM_SHOWN_MAX])
            made["description"] = f"{made.get('description', '')} One of: {shown}".strip()
        self._drop_hidden(given, made)
        return made

    def _named(self, key: str, value: object, inside: tuple[str, ...]) -> dict[str, Any]:
        return {
            name: self._convert(one, inside)
            for name, one in mapping(value).items()
            if key != "properties" or not self._is_hidden(one)
        }

    def _is_hidden(self, schema: object) -> bool:
        return mapping(schema).get(self._hidden) is True

    def _drop_hidden(self, given: Mapping[str, Any], made: dict[str, Any]) -> None:
        """A property that does not travel this way is not required either."""
        required = made.get("required")
        if not isinstance(required, list):
            made.pop("required", None)
            return
        hidden = {
            name for name, one in mapping(given.get("properties")).items() if self._is_hidden(one)
        }
        made["required"] = [name for name in cast("list[str]", required) if name not in hidden]

    def _referred(self, given: Mapping[str, Any], inside: tuple[str, ...]) -> dict[str, Any] | bool:
        reference = str(given["$ref"])
        # Siblings count in 3.1 only.
        beside = {} if self._old else {k: v for k, v in given.items() if k != "$ref"}
        if (
            self._inlining
            and reference not in inside
            and len(inside) < INLINE_DEPTH_MAX
            and self._nodes < self._nodes_max // INLINE_SHARE
        ):
            made = self._convert(self._references.at(reference), (*inside, reference))
        else:
            made = self._defined(reference)
        if not beside or isinstance(made, bool):
            return made
        if _ANNOTATIONS.issuperset(beside):
            own = self._convert(beside, inside)
            return {**made, **own} if isinstance(own, dict) else made
        return {"allOf": [made, self._convert(beside, inside)]}

    def _defined(self, reference: str) -> dict[str, Any]:
        name = self._names.get(reference)
        if name is None:
            plain = _FOREIGN.sub("_", reference.rpartition("/")[2])[:64] or "schema"
            name, number = plain, 1
            while name in self._names.values():
                number += 1
                name = f"{plain}_{number}"
            self._references.at(reference)
            self._names[reference] = name
            self._waiting.append(reference)
        return {"$ref": f"#/$defs/{name}"}


def _modern(given: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI 3.0 says otherwise than JSON Schema."""
    for bound, exclusive in (
        ("minimum", "exclusiveMinimum"),
        ("maximum", "exclusiveMaximum"),
    ):
        flag = made.get(exclusive)
        if isinstance(flag, bool):
            del made[exclusive]
            if flag and bound in made:
                made[exclusive] = made.pop(bound)
    if given.get("nullable") is not True:
        return made
    kind = made.get("type")
    if isinstance(kind, str):
        made["type"] = [kind, "null"]
        allowed = made.get("enum")
        if isinstance(allowed, list) and None not in allowed:
            made["enum"] = [*cast("list[object]", allowed), None]
        return made
    return {"anyOf": [made, {"type": "null"}]}


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= DESCRIPTION_CHARS_MAX else text[: DESCRIPTION_CHARS_MAX - 1] + "…"
