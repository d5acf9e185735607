"""The HTTP request that a call of a tool becomes."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote, quote_plus, unquote

import msgspec

from tool_runner.server_types.openapi.operations import Body, Operation
from tool_runner.server_types.openapi.values import (
    RefusedValueError,
    cookie,
    header,
    pairs,
    path_value,
)

__all__ = ["Extra", "Outgoing", "outgoing"]

TARGET_CHARS_MAX = 64 * 1024
ACCEPT = "application/json, text/*;q=0.8, */*;q=0.5"
_PLACES = re.compile(r"\{([^{}/]+)\}")
_PATH_SAFE = "/:@!$&'()*+,;=-._~%"


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner itself adds to a request: its credentials for the operation."""

    headers: dict[str, str] = {}
    query: tuple[tuple[str, str], ...] = ()
    cookies: tuple[str, ...] = ()


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A request: ``target`` is path and query, encoded, below the base of the API."""

    target: str
    headers: dict[str, str]
    body: bytes | None


def outgoing(
    operation: Operation,
    arguments: Mapping[str, Any],
    extra: Extra,
    boundary: Callable[[], str],
) -> Outgoing:
    """Write a request.

    Args:
        operation: of the tool.
        arguments: fit its input schema.
        extra: credentials.
        boundary: makes a text that parts of a multipart body are separated by.

    Raises:
        RefusedValueError: an argument cannot be written; public text that names it.
    """
    places: dict[str, str] = {}
    query: list[tuple[str, str]] = []
    headers = {"Accept": ACCEPT}
    cookies: list[str] = []
    for one in operation.parameters:
        value: object = arguments.get(one.argument)
        if one.place == "path":
            places[one.name] = path_value(one.argument, value, one.style, explode=one.explode)
        elif value is None:
            continue  # left out; null is written that way too
        elif one.place == "query":
            query += pairs(one.name, value, one.style, explode=one.explode, reserved=one.reserved)
        elif one.place == "header":
            headers[one.name] = header(one.argument, value, one.style, explode=one.explode)
        else:
            cookies.append(cookie(one.name, value, one.style, explode=one.explode))
    _check_query(query, extra)
    query += ((quote(name, safe=""), quote(value, safe="")) for name, value in extra.query)
    cookies += extra.cookies
    if cookies:
        headers["Cookie"] = "; ".join(cookies)
    headers.update(extra.headers)
    target = _path(operation.path, places)
    if query:
        target += "?" + "&".join(f"{name}={value}" for name, value in query)
    if len(target) > TARGET_CHARS_MAX:
        raise RefusedValueError(f"the address would exceed {TARGET_CHARS_MAX} characters")
    return _with_body(operation.body, arguments, target, headers, boundary)


def _check_query(query: Sequence[tuple[str, str]], extra: Extra) -> None:
    """An object of a caller writes names of its own; a second credential is not among them."""
    ours = {name.lower() for name, _ in extra.query}
    for key, _ in query:
        name = unquote(key).lower()
        if name in ours:
            raise RefusedValueError(f"{name}: this part of the query is not the caller's to set")


def _with_body(
    body: Body | None,
    arguments: Mapping[str, Any],
    target: str,
    headers: dict[str, str],
    boundary: Callable[[], str],
) -> Outgoing:
    if body is None or body.argument not in arguments:
        return Outgoing(target=target, headers=headers, body=None)
    content, media_type = _body(body, arguments[body.argument], boundary)
    headers["Content-Type"] = media_type
    return Outgoing(target=target, headers=headers, body=content)


def _path(template: str, places: Mapping[str, str]) -> str:
    parts: list[str] = []
    at = 0
    for match in _PLACES.finditer(template):
        parts += (quote(template[at : match.start()], safe=_PATH_SAFE), places[match[1]])
        at = match.end()
    path = "".join((*parts, quote(template[at:], safe=_PATH_SAFE)))
    # Two harmless values can stand side by side in one segment.
    if any(segment in {".", ".."} for segment in path.split("/")):
        raise RefusedValueError(f"{', '.join(places)}: together they make a dot segment")
    return path


def _body(body: Body, value: Any, boundary: Callable[[], str]) -> tuple[bytes, str]:
    match body.kind:
        case "json":
            media = "application/json" if body.media_type == "*/*" else body.media_type
            return msgspec.json.encode(value), media
        case "form":
            return _form(_members(body, value)), body.media_type
        case "multipart":
            mark = boundary()
            parts = _multipart(body, _members(body, value), mark)
            return parts, f"multipart/form-data; boundary={mark}"
        case "text":
            media = body.media_type
            return str(value).encode(), media if ";" in media else f"{media}; charset=utf-8"
        case _:
            media = "application/octet-stream" if "*" in body.media_type else body.media_type
            return _unpacked(body.argument, value), media


def _members(body: Body, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise RefusedValueError(f"{body.argument}: an object is expected, one member per field")
    return cast("Mapping[str, object]", value)


def _form(members: Mapping[str, object]) -> bytes:
    fields: list[str] = []
    for name, value in members.items():
        values = cast("list[object]", value) if isinstance(value, list) else [value]
        fields += (f"{quote_plus(name)}={quote_plus(_field(one))}" for one in values)
    return "&".join(fields).encode()


def _multipart(body: Body, members: Mapping[str, object], mark: str) -> bytes:
    made = bytearray()
    for name, value in members.items():
        values = cast("list[object]", value) if isinstance(value, list) else [value]
        for one in values:
            shown = quote(name, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~")
            made += f'--{mark}\r\nContent-Disposition: form-data; name="{shown}"'.encode()
            if name in body.binary:
                made += f'; filename="{shown}"\r\nContent-Type: application/octet-stream'.encode()
                content = _unpacked(f"{body.argument}.{name}", one)
            else:
                if isinstance(one, dict):
                    made += b"\r\nContent-Type: application/json"
                content = _field(one).encode()
            made += b"\r\n\r\n" + content + b"\r\n"
    made += f"--{mark}--\r\n".encode()
    return bytes(made)


def _field(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _unpacked(argument: str, value: object) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        raise RefusedValueError(f"{argument}: the bytes are expected as base64") from None
