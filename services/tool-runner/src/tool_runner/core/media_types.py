"""Media types of artifacts: which are taken, and which are text (RFC 9110, 8.3.1)."""

import re

__all__ = ["OCTETS", "TEXT", "charset_problem", "is_text", "kind_of", "media_type_problem"]

TEXT, OCTETS = "text/plain; charset=utf-8", "application/octet-stream"
MEDIA_TYPE_CHARS_MAX = 255

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of the grammar
_MEDIA_TYPE = re.compile(
    rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"[\t !#-\[\]-~]*"))*'
)
_TEXTUAL = re.compile(
    r"text/.*|application/(?:json|xml|yaml|x-yaml|toml|javascript|sql|graphql|x-ndjson|jsonl"
    r"|x-sh)|.*\+(?:json|xml|yaml)",
)
_CHARSET = re.compile(r';[ \t]*charset="?([^";\s]+)"?', re.IGNORECASE)


def media_type_problem(text: str) -> str:
    """Why it is no media type, as public text; "" = it is one."""
    if len(text) > MEDIA_TYPE_CHARS_MAX:
        return f"contentType has {len(text)} characters; the limit is {MEDIA_TYPE_CHARS_MAX}"
    if _MEDIA_TYPE.fullmatch(text) is None:
        return "contentType must be a media type such as text/markdown or application/pdf"
    return ""


def charset_problem(text: str) -> str:
    """Text is stored as UTF-8, whatever its type says; "" = it says nothing else."""
    found = _CHARSET.search(text)
    if found is None or found[1].lower() in {"utf-8", "utf8", "us-ascii"}:
        return ""
    return f"content is stored as UTF-8, and contentType says {found[1]}: send data as base64"


def kind_of(text: str) -> str:
    """The type without its parameters, in lower case."""
    return text.partition(";")[0].strip().lower()


def is_text(text: str) -> bool:
    """Whether a body of this type is shown as text where it is UTF-8."""
    return _TEXTUAL.fullmatch(kind_of(text)) is not None and not charset_problem(text)
