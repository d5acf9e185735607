"""Tool arguments from a command line: one JSON object, or ``key=value`` pairs typed by schema."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mesh_cli.failure import Exit, Failure

__all__ = ["needs_schema", "parse"]

_TYPED = frozenset({"integer", "number", "boolean", "array", "object", "null"})
BODY_BYTES_MAX = 10 * 1024 * 1024


def needs_schema(words: Sequence[str]) -> bool:
    """Whether the words hold ``key=value`` pairs, whose types only the tool's schema knows."""
    return any(_is_pair(word) and not _is_json_pair(word) for word in words)


def parse(words: Sequence[str], schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments.

    Args:
        words: nothing, one JSON object, ``-`` (JSON on standard input), or pairs: ``key=value``
            (a string, or what the schema says) and ``key:=json``.
        schema: the tool's input schema.

    Raises:
        Failure: a word is neither.
    """
    if not words:
        return {}
    if len(words) == 1 and (words[0] == "-" or words[0].lstrip().startswith("{")):
        text = sys.stdin.read(BODY_BYTES_MAX) if words[0] == "-" else words[0]
        value = _json(text, "the arguments")
        if not isinstance(value, dict):
            raise Failure("the arguments must be a JSON object", code=Exit.USAGE)
        return value
    properties = (schema or {}).get("properties", {})
    return dict(_pair(word, properties) for word in words)


def _pair(word: str, properties: Mapping[str, Any]) -> tuple[str, Any]:
    if _is_json_pair(word):
        key, _, text = word.partition(":=")
        return key, _json(text, key)
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise Failure(
            f"{word!r} is no argument",
            mend="write key=value, key:=json or one JSON object",
            code=Exit.USAGE,
        )
    types = _types(properties.get(key))
    if types & _TYPED and "string" not in types:
        return key, _json(text, key)
    return key, text


def _types(schema: Any) -> frozenset[str]:
    """Types a property may have; empty when the schema does not say."""
    if not isinstance(schema, dict):
        return frozenset()
    named = schema.get("type")
    found = {named} if isinstance(named, str) else set(named or ())
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found |= _types(choice)
    return frozenset(found)


def _is_pair(word: str) -> bool:
    return "=" in word and not word.lstrip().startswith("{")


def _is_json_pair(word: str) -> bool:
    return ":=" in word and word.index(":=") + 1 == word.index("=")


def _json(text: str, what: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Failure(f"{what}: not JSON: {error}", code=Exit.USAGE) from None
