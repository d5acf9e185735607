"""What becomes of a Redis message as an event, and of an event as a Redis message."""

import base64
import re
from collections.abc import Callable

import msgspec

from mcp_proto.limits import TOPIC_CHARS_MAX

__all__ = ["SOURCE", "data_of", "matcher", "patterns_of", "topic_of"]

SOURCE = "redis:"
"""Events from Redis have a source that begins so, and are never sent back to any Redis."""


def patterns_of(prefix: str, subscribed: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns as Redis takes them: each below the prefix, written with or without it."""
    literal = re.sub(r"([*?\[\]\\])", r"\\\1", prefix)
    whole = (literal + (one.removeprefix(prefix) if prefix else one) for one in subscribed)
    return tuple(dict.fromkeys(whole))


def topic_of(prefix: str, channel: bytes) -> str | None:
    """The topic of a channel; None when it cannot be one."""
    try:
        name = channel.decode()
    except UnicodeDecodeError:
        return None
    topic = name.removeprefix(prefix)
    within = name.startswith(prefix) and 0 < len(topic) <= TOPIC_CHARS_MAX
    return topic if within and "\0" not in topic else None


def data_of(payload: bytes) -> bytes:
    """The data of an event: JSON as it is, other text as ``{"text"}``, bytes as ``{"base64"}``."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return msgspec.json.encode({"base64": base64.b64encode(payload).decode()})
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.json.encode({"text": text})
    return payload


def matcher(patterns: tuple[str, ...]) -> Callable[[bytes], bytes | None]:
    """A function that gives the first pattern that fits a channel.

    Redis gives a message once per pattern that fits; only the first one's counts.
    """
    compiled = [(one.encode(), re.compile(_regex(one.encode()), re.DOTALL)) for one in patterns]

    def first(channel: bytes) -> bytes | None:
        return next((one for one, fits in compiled if fits.fullmatch(channel)), None)

    return first


def _regex(pattern: bytes) -> bytes:
    """Redis' own glob: ``*``, ``?``, ``[a-z]``, ``[^a]`` and a backslash before any character."""
    head, *more = _segments(pattern)
    if not more:
        return head
    *middle, tail = more
    # The shortest match of each middle part is final (atomic), which keeps matching linear.
    return head + b"".join(b"(?>.*?%b)" % part for part in middle if part) + b".*" + tail


def _segments(pattern: bytes) -> list[bytes]:
    """What stands between the ``*``, as regular expressions."""
    out = [b""]
    at = 0
    while at < len(pattern):
        one = pattern[at : at + 1]
        at += 1
        if one == b"*":
            out.append(b"")
        elif one == b"?":
            out[-1] += b"."
        elif one == b"[" and (end := _end_of_class(pattern, at)) > 0:
            out[-1] += _class(pattern[at:end])
            at = end + 1
        else:
            if one == b"\\" and at < len(pattern):
                one = pattern[at : at + 1]
                at += 1
            out[-1] += re.escape(one)
    return out


def _end_of_class(pattern: bytes, at: int) -> int:
    while at < len(pattern):
        if pattern[at : at + 1] == b"\\":
            at += 1
        elif pattern[at : at + 1] == b"]":
            return at
        at += 1
    return -1


def _class(body: bytes) -> bytes:
    negated, body = (b"^", body[1:]) if body.startswith(b"^") else (b"", body)
    if not body:
        return b"." if negated else b"(?!)"
    return b"[" + negated + re.sub(rb"([\[\]^&|~])", rb"\\\1", body) + b"]"
