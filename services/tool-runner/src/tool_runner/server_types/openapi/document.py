"""An OpenAPI document from bytes: JSON or YAML, bounded, checked against the official schema."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, cast

import msgspec

from tool_runner.server_types.openapi.yaml_text import yaml_value

__all__ = ["DOCUMENT_BYTES_MAX", "METHODS", "DocumentError", "check", "is_old", "parse"]

DOCUMENT_BYTES_MAX = 16 * 1024 * 1024
NODES_MAX = 1_000_000
"""Values in a document, aliases of YAML counted as often as they are used."""
DEPTH_MAX = 100
PROBLEM_CHARS_MAX = 300
FAULTS_MAX = 1_000
METHODS = ("get", "put", "post", "delete", "patch", "head")
"""Methods that become tools."""
_HARMLESS = frozenset(("components", "info", "tags", "externalDocs", "security", "webhooks"))
_BOM = b"\xef\xbb\xbf"


class DocumentError(ValueError):
    """A document, or one operation of it, cannot be used; the text is public and names where."""


def parse(raw: bytes) -> dict[str, Any]:
    """The document in bytes; blocks, up to seconds.

    Raises:
        DocumentError: neither JSON nor YAML, too large, or no object.
    """
    if len(raw) > DOCUMENT_BYTES_MAX:
        raise DocumentError(f"the document has more than {DOCUMENT_BYTES_MAX} bytes")
    raw = raw.removeprefix(_BOM)
    try:
        if raw.lstrip()[:1] == b"{":
            value: object = msgspec.json.decode(raw)
        else:
            value = yaml_value(raw, DEPTH_MAX, NODES_MAX)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        said = " ".join(str(error).split())[:PROBLEM_CHARS_MAX]
        raise DocumentError(f"the document is neither JSON nor YAML: {said}") from None
    except RecursionError:
        raise DocumentError(f"the document is nested deeper than {DEPTH_MAX}") from None
    if not isinstance(value, dict):
        raise DocumentError("the document is no object")
    return cast("dict[str, Any]", _Plain().of(cast("object", value), 0))


def check(document: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Refuse what is no OpenAPI 3.0 or 3.1 document.

    Few long documents keep to the official schema everywhere. A fault inside of an operation costs
    that operation; one in a component shows where that is used.

    Args:
        document: by ``parse``.

    Returns:
        (path, method), or (path, "") for all of a path -> what is wrong there.

    Raises:
        DocumentError: it is none as a whole; names the place.
    """
    version: object = document.get("openapi")
    if not isinstance(version, str):
        swagger = "swagger" in document
        raise DocumentError(
            "this is Swagger 2.0; convert it to OpenAPI 3"
            if swagger
            else 'openapi: the version is missing ("3.0.3", "3.1.0")'
        )
    if not version.startswith(("3.0.", "3.1.")):
        raise DocumentError(f"openapi: {version[:32]} is not known here; 3.0 and 3.1 are")
    faults: dict[tuple[str, str], str] = {}
    for place, said in _faults(document, old=is_old(document)):
        parts = place.split("\0")
        text = f"{'/'.join(parts) or 'the document'}: {said}"
        if parts[0] == "paths" and len(parts) > 1:
            method = parts[2] if len(parts) > 2 and parts[2] in METHODS else ""
            faults.setdefault((parts[1], method), text)
        elif parts[0] not in _HARMLESS or not isinstance(document.get(parts[0]), dict | list):
            raise DocumentError(text)
    return faults


def is_old(document: Mapping[str, Any]) -> bool:
    """Whether its schemas are in the dialect of OpenAPI 3.0 rather than JSON Schema."""
    return str(document.get("openapi", "")).startswith("3.0.")


def _faults(document: Mapping[str, Any], *, old: bool) -> Iterable[tuple[str, str]]:
    """Where a document breaks the official schema (parts joined by NUL), and how."""
    # Loads pydantic and more: only a runner with such a server pays for it. Only the structure is
    # checked: the package's full check follows references to wherever they lead.
    from openapi_spec_validator.schemas import (  # noqa: PLC0415
        openapi_v30_schema_validator,
        openapi_v31_schema_validator,
    )

    validator = openapi_v30_schema_validator if old else openapi_v31_schema_validator
    for error in islice(validator.iter_errors(document), FAULTS_MAX):
        said = str(error.message).splitlines()[0]
        if len(said) > PROBLEM_CHARS_MAX:
            said = f"…{said[-PROBLEM_CHARS_MAX // 2 :]}"  # the value comes first, the reason last
        yield "\0".join(str(part) for part in error.path), said


class _Plain:
    """Copies a value as JSON would have it, counting as it goes."""

    def __init__(self) -> None:
        self._nodes = 0

    def of(self, value: object, depth: int) -> object:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise DocumentError(f"the document has more than {NODES_MAX} values")
        if depth > DEPTH_MAX:
            raise DocumentError(f"the document is nested deeper than {DEPTH_MAX}")
        if isinstance(value, dict):
            return {
                key if isinstance(key, str) else str(key): self.of(one, depth + 1)
                for key, one in cast("dict[Any, object]", value).items()
            }
        if isinstance(value, list):
            return [self.of(one, depth + 1) for one in cast("list[object]", value)]
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise DocumentError(f"a {type(value).__name__} is nothing that JSON has")
