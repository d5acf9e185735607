"""Values of ``Mcp-Name`` and ``Mcp-Param-*``: any text in an ASCII header, reversibly.

Printable ASCII without blanks at the edges goes verbatim; everything else, and any literal that
looks like the marker, becomes ``=?base64?<canonical base64 of the UTF-8 bytes>?=``
(MCP 2026-07-28, "Streamable HTTP", header encoding).
"""

import base64
import binascii

__all__ = ["decode_value", "encode_value"]

_OPEN = "=?base64?"
_CLOSE = "?="
_SHORTEST = len(_OPEN) + len(_CLOSE)


def encode_value(text: str) -> str:
    """Encode ``text`` for a header.

    Raises:
        UnicodeEncodeError: the text holds lone surrogates.
    """
    if text.isascii() and text.isprintable() and text == text.strip() and text[:9] != _OPEN:
        return text
    return f"{_OPEN}{base64.b64encode(text.encode()).decode()}{_CLOSE}"


def decode_value(value: str) -> str:
    """Invert ``encode_value``; verbatim values pass through, half a marker too (SEP-2243).

    Raises:
        ValueError: base64 between the markers that is not canonical or not UTF-8.
    """
    if not value.startswith(_OPEN) or not value.endswith(_CLOSE) or len(value) < _SHORTEST:
        return value
    inner = value[len(_OPEN) : -len(_CLOSE)]
    try:
        raw = base64.b64decode(inner, validate=True)
    except binascii.Error as error:
        raise ValueError("malformed base64 header value") from error
    if base64.b64encode(raw).decode() != inner:
        raise ValueError("base64 header value is not canonical")
    return raw.decode()
