"""Arguments that a virtual server fixes, hides or gives a default: in the schema, and in the call.

Only top-level properties are touched. What stays of a schema and of a caller's arguments keeps
its bytes; a schema that has no such property is left as it is.
"""

from collections.abc import Iterable, Mapping

import msgspec

from mcp_proto.contracts.virtuals import Argument
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick, remove, splice

__all__ = ["ArgumentRules", "argument_rules", "completed", "reshaped"]

_STRINGS = msgspec.json.Decoder(list[msgspec.Raw])


class ArgumentRules(msgspec.Struct, frozen=True):
    """What happens to the arguments of one tool, values as JSON.

    Attributes:
        fixed: always these.
        refused: not shown, and refused from a caller: the fixed ones and the hidden ones.
        defaults: where the caller leaves them out.
    """

    fixed: dict[str, bytes]
    refused: frozenset[str]
    defaults: dict[str, bytes]


def argument_rules(arguments: Mapping[str, Argument]) -> ArgumentRules | None:
    """Rules as a definition writes them; None when there are none."""
    if not arguments:
        return None
    return ArgumentRules(
        fixed={
            name: msgspec.json.encode(one.value)
            for name, one in arguments.items()
            if one.value is not msgspec.UNSET
        },
        refused=frozenset(name for name, one in arguments.items() if one.default is msgspec.UNSET),
        defaults={
            name: msgspec.json.encode(one.default)
            for name, one in arguments.items()
            if one.default is not msgspec.UNSET
        },
    )


def reshaped(entry: bytes, rules: ArgumentRules) -> bytes:
    """A tool as listed, its ``inputSchema`` without what a caller may not send.

    An argument with a default stays, is not required, and says its default.
    """
    try:
        schema = pick(entry, "inputSchema").get("inputSchema")
        return entry if schema is None else splice(entry, {"inputSchema": _schema(schema, rules)})
    except MeshError:
        return entry


def _schema(schema: msgspec.Raw, rules: ArgumentRules) -> bytes:
    found = pick(schema, "properties", "required")
    changed: dict[str, bytes] = {}
    properties = found.get("properties")
    if properties is not None:
        kept = remove(properties, *rules.refused)
        shown = pick(kept, *rules.defaults) if rules.defaults else {}
        told = {
            name: splice(one, {"default": rules.defaults[name]})
            for name, one in shown.items()
            if bytes(one).startswith(b"{")
        }
        changed["properties"] = splice(kept, told)
    required = found.get("required")
    if required is None:
        return splice(schema, changed)
    left = [name for name in _names(required) if not _touched(name, rules)]
    if left:
        changed["required"] = b"[" + b",".join(bytes(name) for name in left) + b"]"
        return splice(schema, changed)
    # An empty list is no schema in older dialects.
    return remove(splice(schema, changed), "required")


def _names(required: msgspec.Raw) -> Iterable[msgspec.Raw]:
    try:
        return _STRINGS.decode(required)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()


def _touched(raw: msgspec.Raw, rules: ArgumentRules) -> bool:
    try:
        name = msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return name in rules.refused or name in rules.defaults


def completed(params: bytes, rules: ArgumentRules) -> bytes:
    """``params`` of a call with the arguments that its caller does not send.

    Raises:
        MeshError: ``params`` when the caller sends one it may not, or no object.
    """
    raw = pick(params, "arguments").get("arguments", b"{}")
    arguments = b"{}" if bytes(raw) == b"null" else bytes(raw)
    sent = pick(arguments, *rules.refused, *rules.defaults)
    for name in sent:
        if name in rules.refused:
            raise MeshError(ErrorKind.PARAMS, f"argument {name[:64]} is fixed here; leave it out")
    missing = {name: value for name, value in rules.defaults.items() if name not in sent}
    return splice(params, {"arguments": splice(arguments, rules.fixed | missing)})
