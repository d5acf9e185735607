"""The configuration that would run, as TOML, with every secret masked."""

import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import tomlkit

from mcp_proto.server_definitions import is_secret_reference, redacted_url
from mesh_chassis.logs import redact
from mesh_cli.user_file import MeshFile

__all__ = ["MASK", "effective"]

MASK = "********"

_SECRET = re.compile(
    r"(?i)(?:^|[_-])(?:authorization|password|passwd|secret|token|api[_-]?key|key|credentials?|"
    r"cookie|seed|bearer|pat)s?$"
)
_OWN = frozenset({"tenant_secrets"})
"""Patterns of references, not secrets."""
_USER_INFO = re.compile(r"://[^/@\s]*@")
_FLAG = re.compile(r"(?i)^--?[a-z-]*(?:token|secret|password|api-?key|key)(=.*)?$", re.DOTALL)


def effective(content: MeshFile) -> str:
    """Every key with the value it has, defaults included."""
    document = tomlkit.document()
    table: dict[str, Any] = msgspec.to_builtins(content)
    for name, value in table.items():
        document.add(name, tomlkit.item(_masked(value, name)))
    return tomlkit.dumps(document)


def _masked(value: Any, name: str, *, all_of: bool = False) -> Any:
    match value:
        case dict():
            inner = cast("Mapping[str, Any]", value)
            hide = name in {"headers", "credentials"}
            return {
                key: _masked(one, key, all_of=hide)
                for key, one in inner.items()
                if one is not None and key not in {"generation", "origin"}
            }
        case list() | tuple():
            items = cast("list[Any]", value)
            return _masked_list(items, name)
        case str() if value:
            return _masked_text(value, name, hide=all_of)
        case _:
            return value


def _masked_list(items: list[Any], name: str) -> list[Any]:
    out: list[Any] = []
    hide_next = False
    for item in items:
        flag = _FLAG.match(item) if isinstance(item, str) and name in {"args", "argv"} else None
        if hide_next and isinstance(item, str) and flag is None:
            out.append(MASK)
        elif flag is not None and flag[1]:
            out.append(f"{item.partition('=')[0]}={MASK}")
        else:
            out.append(_masked(item, "" if name in _OWN else name))
        hide_next = flag is not None and not flag[1]
    return out


def _masked_text(value: str, name: str, *, hide: bool) -> str:
    if is_secret_reference(value):
        return value
    if hide or (_SECRET.search(name) and not name.endswith("_file")):
        return MASK
    if "://" in value and "\n" not in value:
        shown = redacted_url(_USER_INFO.sub(f"://{MASK}@", value))
        value = shown if shown == value or "?" not in value else f"{shown}?{MASK}"
    return redact(value)
