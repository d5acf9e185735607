"""What a handler takes and gives: from its signature to a decoder and JSON Schemas.

Arguments are decoded once, straight into their types, by a msgspec decoder made when the handler
is added: there is no second look by a schema validator, and the schema that is listed comes from
the very types that decode.
"""

import copy
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, cast, get_args, get_type_hints

import msgspec

from mesh_sdk.agent.context import Context
from mesh_sdk.agent.docstrings import Doc, read_doc
from mesh_sdk.agent.models import decode_hook, is_field, readable, schema_of

__all__ = ["ArgumentError", "Parameter", "Signature", "is_async", "object_schema"]

_PLAIN = (str, int, float, bool, bytes, type(None))
_AT = re.compile(r"^(?P<text>.*?)(?: - at `\$?\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_TYPE = re.compile(r"`([^`]*)`")
_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "None": "null",
}
"""Whoever reads the error knows the schema, not Python."""
_TEXT_CHARS_MAX = 400


class ArgumentError(ValueError):
    """Arguments that do not fit, with the path and what was expected; public text."""


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a handler as callers see it."""

    name: str
    required: bool
    description: str


class Signature:
    """The signature of one handler.

    Args:
        handler: a function, plain or ``async``.
        name: for error texts.

    Attributes:
        doc: its docstring.
        parameters: what callers give, in order.
        kinds: annotated types by parameter.
        context: name of the parameter that takes the ``Context``; "" = none.
        schema: input schema, root type object.
        returns: annotated return type; ``Any`` = not annotated.

    Raises:
        TypeError: a parameter that cannot be given by name, or a type without JSON form.
    """

    def __init__(self, handler: Callable[..., object], name: str) -> None:
        self.doc: Doc = read_doc(handler)
        self._name = name
        hints = _hints(handler, name)
        self.returns: Any = hints.pop("return", Any)
        self.context = ""
        self.kinds: dict[str, Any] = hints
        fields: list[tuple[str, Any, Any]] = []
        parameters: list[Parameter] = []
        for one in inspect.signature(handler).parameters.values():
            kind = hints.get(one.name, Any)
            if _is_context(kind):
                self.context = one.name
                continue
            if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                raise TypeError(f"{name}: parameter {one.name} must be one that has a name")
            default = one.default
            if is_field(default):
                hints[one.name] = kind = readable(Annotated[kind, default])
                default = _default_of(default, one.empty)
            required = default is one.empty
            fields.append((one.name, kind, msgspec.NODEFAULT if required else _default(default)))
            parameters.append(Parameter(one.name, required, self.doc.parameters.get(one.name, "")))
        self.parameters = tuple(parameters)
        self._names = tuple(one.name for one in parameters)
        self._struct = msgspec.defstruct(
            "Arguments", fields, kw_only=True, frozen=True, forbid_unknown_fields=True, gc=False
        )
        try:
            self._decode = msgspec.json.Decoder(self._struct, dec_hook=decode_hook).decode
            self.schema = self._input_schema()
        except (TypeError, NotImplementedError) as error:
            raise TypeError(f"{name}: {error}") from None

    def _input_schema(self) -> dict[str, Any]:
        schema = schema_of(self._struct)
        schema.pop("title", None)
        properties = cast("dict[str, dict[str, Any]]", schema.setdefault("properties", {}))
        for one in self.parameters:
            if one.description:
                properties[one.name].setdefault("description", one.description)
        if not schema.get("required"):
            schema.pop("required", None)
        return schema

    def read(self, arguments: bytes | msgspec.Raw) -> dict[str, Any]:
        """Decode the arguments of a call; empty counts as ``{}``.

        Raises:
            ArgumentError: they do not fit.
        """
        try:
            found = self._decode(arguments if memoryview(arguments).nbytes else b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            again = self._read_whole_numbers(arguments) if "got `float`" in str(error) else None
            if again is None:
                raise ArgumentError(self._problem(str(error))) from None
            found = again
        return dict(zip(self._names, msgspec.structs.astuple(found), strict=True))

    def _read_whole_numbers(self, arguments: bytes | msgspec.Raw) -> msgspec.Struct | None:
        """For JSON Schema ``1.0`` is an integer, and some languages write every number so."""
        try:
            tree = _whole_numbers(msgspec.json.decode(arguments))
            return msgspec.convert(tree, self._struct, str_keys=True, dec_hook=decode_hook)
        except (msgspec.ValidationError, RecursionError):
            return None

    def convert(self, values: Mapping[str, str]) -> dict[str, Any]:
        """The same from text: of a URI, or of a prompt's arguments.

        Raises:
            ArgumentError: they do not fit.
        """
        try:
            found = msgspec.convert(dict(values), self._struct, strict=False, dec_hook=decode_hook)
        except msgspec.ValidationError as error:
            raise ArgumentError(self._problem(str(error))) from None
        return dict(zip(self._names, msgspec.structs.astuple(found), strict=True))

    def _problem(self, text: str) -> str:
        found = _AT.match(text)
        said, path = (found["text"], found["path"] or "") if found is not None else (text, "")
        known = ", ".join(self._names) or "none"
        unknown, missing = _UNKNOWN.fullmatch(said), _MISSING.fullmatch(said)
        if unknown is not None and not path:
            said = f"there is no {unknown['name']}; parameters are: {known}"
        elif missing is not None:
            path, said = ".".join(filter(None, (path, missing["name"]))), "is required"
        said = _TYPE.sub(_in_json, said)
        whole = f"{path}: {said}" if path else said
        if len(whole) > _TEXT_CHARS_MAX:
            whole = whole[:_TEXT_CHARS_MAX] + "…"
        return f"Invalid arguments for {self._name}: {whole}"


def _in_json(word: re.Match[str]) -> str:
    return " or ".join(_JSON_TYPES.get(one, one) for one in word[1].split(" | "))


def _whole_numbers(tree: Any) -> Any:
    match tree:
        case float() if tree.is_integer():
            return int(tree)
        case list():
            return [_whole_numbers(one) for one in cast("list[Any]", tree)]
        case dict():
            return {key: _whole_numbers(one) for key, one in cast("dict[str, Any]", tree).items()}
        case _:
            return tree


def object_schema(kind: Any) -> dict[str, Any] | None:
    """Output schema of a return type; None unless that is an object (MCP wants one).

    Raises:
        TypeError: the type has no JSON form.
    """
    if kind in (Any, None, type(None)):
        return None
    try:
        schema = schema_of(kind)
    except (TypeError, NotImplementedError):
        return None
    if schema.get("type") != "object":
        return None
    return schema


def is_async(handler: Callable[..., object]) -> bool:
    """Whether calling it gives something to await."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


Handler = Callable[..., Awaitable[object]]


def _hints(handler: Callable[..., object], name: str) -> dict[str, Any]:
    target = handler if inspect.isroutine(handler) else type(handler).__call__
    try:
        hints = get_type_hints(target, include_extras=True)
        return {name: readable(kind) for name, kind in hints.items()}
    except NameError as error:
        raise TypeError(
            f"{name}: an annotation names {error.name}, which the module does not have; with "
            "'from __future__ import annotations' types must be defined at module level"
        ) from None


def _is_context(kind: Any) -> bool:
    """``Context``, ``Context | None`` or a subclass."""
    candidates = (kind, *get_args(kind))
    return any(isinstance(one, type) and issubclass(one, Context) for one in candidates)


def _default_of(field: object, empty: object) -> Any:
    """The default in a ``pydantic.Field(…)``; ``empty`` = it has none."""
    if cast("Any", field).is_required():
        return empty
    return cast("Any", field).get_default(call_default_factory=True)


def _default(value: object) -> Any:
    if isinstance(value, _PLAIN):
        return value
    # Copied per call, as a fresh object would be: callers must not share a list.
    return msgspec.field(default_factory=lambda: copy.deepcopy(value))
