"""From what a program says of a server to its definition.

``name``, ``type``, ``port`` and ``max_connections`` are the words of earlier managers; every
member of ``ServerDefinition`` may stand beside them, and what is none is a setting of the type.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind
from mcp_proto.server_types import CUSTOM, TYPES, server_problem
from mesh_sdk.client.errors import MeshCallError

__all__ = ["definition_of", "server_id", "split_id"]

_LOOPBACK = "127.0.0.1"
_FIELDS = frozenset(field.name for field in msgspec.structs.fields(ServerDefinition))


def definition_of(wanted: Mapping[str, Any]) -> ServerDefinition:
    """The definition that a deployment means.

    ``port`` is where a server of type ``custom`` without ``command`` and ``url`` listens on this
    machine (``/mcp`` over HTTP; with ``transport = "tcp"`` lines), and where a server that a
    type needs the address of does (Prometheus). Types that the runner serves itself listen on
    no port of their own, so there it says nothing.

    Raises:
        MeshCallError: ``params``, naming the member.
    """
    given = dict(wanted)
    port = _whole(given.pop("port", None), "port", 1, 65_535)
    concurrency = _whole(given.pop("max_connections", None), "max_connections", 1, 1_024)
    given.pop("replace", None)
    kind = given.get("type", CUSTOM)
    if kind != CUSTOM and kind not in TYPES:
        raise _wrong(f"type must be one of {', '.join((CUSTOM, *TYPES))}")
    fields = {key: value for key, value in given.items() if key in _FIELDS}
    settings = {key: value for key, value in given.items() if key not in _FIELDS}
    if settings and kind == CUSTOM:
        raise _wrong(f"no member {min(settings)!r} of a server of type {CUSTOM}")
    if settings:
        fields["settings"] = {**settings, **dict(fields.get("settings", {}))}
    if concurrency is not None:
        fields.setdefault("concurrency", concurrency)
    if port is not None:
        _place(fields, kind, port)
    try:
        definition = msgspec.convert(fields, ServerDefinition)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None
    problem = server_problem(definition)
    if problem is not None:
        raise _wrong(problem)
    return definition


def _place(fields: dict[str, Any], kind: str, port: int) -> None:
    if fields.get("url") or fields.get("command"):
        return
    if kind != CUSTOM:
        known = TYPES[kind]
        if not known.remote or known.url_optional:
            return
        fields["url"] = f"http://{_LOOPBACK}:{port}"
    elif fields.get("transport") == "tcp":
        fields["url"] = f"tcp://{_LOOPBACK}:{port}"
    else:
        fields.setdefault("transport", "http")
        fields["url"] = f"http://{_LOOPBACK}:{port}/mcp"
    fields.setdefault("allow_private", [_LOOPBACK])


def _whole(value: Any, name: str, least: int, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(f"{name} must be a whole number from {least} to {most}")
    return value


def server_id(definition: ServerDefinition) -> str:
    """Id of a deployed server: its name; of a tenant's own ``tenant/name``."""
    if definition.tenant == "_":
        return definition.name
    return f"{definition.tenant}/{definition.name}"


def split_id(given: str) -> tuple[str, str]:
    """Tenant and name of an id."""
    tenant, slash, name = given.rpartition("/")
    return (tenant if slash else "_"), name


def _wrong(message: str) -> MeshCallError:
    return MeshCallError(ErrorKind.PARAMS, message)
