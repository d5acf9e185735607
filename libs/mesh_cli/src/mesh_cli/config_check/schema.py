"""The JSON Schema (2020-12) of ``mesh.toml``, for editors: made of the Structs that read it.

msgspec writes the shapes; added here is what editors live on: the words of the docstrings, and
the ``settings`` that each type of server takes. Patterns are rewritten for the dialect that
editors speak, and a text may always be a variable (``${NAME}``), whatever it must look like.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import inspect

from mcp_proto.server_types import CUSTOM, TYPES
from mesh_cli.config_check.docstrings import about, fields_of
from mesh_cli.user_file import MeshFile

__all__ = ["DIALECT", "schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_REFERENCE = "#/$defs/{name}"
_SERVER = "ServerDefinition"
_NOT_WRITTEN = {_SERVER: ("generation", "origin")}
"""Fields that the registry fills in."""
_VARIABLE = r"\$\{[^{}]+\}"
_IGNORE_CASE = re.compile(r"\(\?i:([^()]*)\)")

Schema = dict[str, Any]


def schema() -> Schema:
    """The schema, with ``$defs`` for every table; the same bytes for the same code."""
    kinds = [MeshFile, *(one.settings for one in TYPES.values())]
    _, parts = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    structs = _structs(kinds)
    definitions: dict[str, Schema] = {
        name: _described(structs[name], part) if name in structs else _rewritten(part)
        for name, part in parts.items()
    }
    _settings_by_type(definitions[_SERVER])
    top = definitions.pop(MeshFile.__name__)
    return {
        "$schema": DIALECT,
        "title": "mesh.toml",
        **top,
        "description": "The file that mesh up reads.",
        "$defs": dict(sorted(definitions.items())),
    }


def _structs(kinds: list[type[msgspec.Struct]]) -> dict[str, type[msgspec.Struct]]:
    """Every Struct that can be reached, by the name msgspec gives it."""
    found: dict[str, type[msgspec.Struct]] = {}
    for kind in kinds:
        _reach(inspect.type_info(kind), found)
    return found


def _reach(shape: object, found: dict[str, type[msgspec.Struct]]) -> None:
    match shape:
        case inspect.StructType(cls=cls, fields=fields):
            if cls.__name__ not in found:
                found[cls.__name__] = cls
                for field in fields:
                    _reach(field.type, found)
        case inspect.Metadata(type=inner):
            _reach(inner, found)
        case inspect.UnionType(types=types):
            for inner in types:
                _reach(inner, found)
        case inspect.DictType(value_type=inner):
            _reach(inner, found)
        case inspect.VarTupleType(item_type=inner) | inspect.ListType(item_type=inner):
            _reach(inner, found)
        case _:
            pass


def _described(struct: type[msgspec.Struct], part: Schema) -> Schema:
    made = cast("Schema", _rewritten(part))
    made.pop("description", None)
    made.pop("title", None)
    text = about(struct)
    if text:
        made["description"] = text
    properties: dict[str, Schema] = made.get("properties", {})
    for name in _NOT_WRITTEN.get(struct.__name__, ()):
        properties.pop(name, None)
    # A name that is no key is a mistake in the file, also where the wire is more lenient.
    made["additionalProperties"] = False
    texts = fields_of(struct)
    for field in msgspec.structs.fields(struct):
        words = texts.get(field.name)
        known = properties.get(field.encode_name)
        if known is None:
            continue
        if "$ref" in known:
            known.pop("default", None)  # its parts say theirs
        if words:
            properties[field.encode_name] = {"description": words, **known}
    return made


def _settings_by_type(server: Schema) -> None:
    server["properties"]["type"] = {
        **server["properties"]["type"],
        "enum": [CUSTOM, *TYPES],
    }
    server["properties"]["settings"].pop("additionalProperties", None)
    server["allOf"] = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": {
                "properties": {"settings": {"$ref": _REFERENCE.format(name=kind.settings.__name__)}}
            },
        }
        for name, kind in TYPES.items()
    ]


_NUMBERS = ("integer", "number", "boolean")


def _rewritten(part: Any) -> Any:
    if isinstance(part, list):
        return [_rewritten(one) for one in cast("list[Any]", part)]
    if not isinstance(part, dict):
        return part
    made: Schema = {
        name: value if name in {"default", "enum", "const"} else _rewritten(value)
        for name, value in cast("Mapping[str, Any]", part).items()
    }
    text = made.get("type") == "string" or ("enum" in made and "type" not in made)
    if isinstance(made.get("pattern"), str):
        made["pattern"] = f"{_ecma(made['pattern'])}|{_VARIABLE}"
    elif ("enum" in made and text) or made.get("type") in _NUMBERS:
        made = {
            **{name: made.pop(name) for name in ("default", "description") if name in made},
            "anyOf": [made, {"type": "string", "pattern": _VARIABLE}],
        }
    return made


def _ecma(pattern: str) -> str:
    """A pattern of Python's as one of ECMA 262, as far as ours go."""
    text = pattern.replace(r"\A", "^").replace(r"\Z", "$").replace(r"\0", r"\x00")
    text = _IGNORE_CASE.sub(lambda found: f"(?:{_any_case(found[1])})", text)
    return f"(?:{text})"


def _any_case(text: str) -> str:
    return "".join(f"[{char.upper()}{char.lower()}]" if char.isalpha() else char for char in text)
