"""Contract of tenants' own events: ``mesh.v1.{tenant}.topic.{topic}``, the body is JSON.

Whoever may publish there sends an event, whoever may subscribe hears it; tool-runner keeps them
(``EVT_mesh_t_{tenant}``) and gives them as tools and resources.
"""

import re
from functools import lru_cache
from urllib.parse import quote, unquote

__all__ = ["SOURCE", "fits", "readable_source", "writable_source"]

SOURCE = "Mesh-Source"
"""Header: the principal that sent the event, percent-encoded. What a program that publishes by
itself writes there is its own word."""

_SOURCE_CHARS_MAX = 600


def fits(pattern: str, topic: str) -> bool:
    """Whether a topic fits: "" = all, else the topic itself, where ``*`` is any text."""
    if not pattern:
        return True
    if "*" not in pattern:
        return pattern == topic
    return _compiled(pattern).fullmatch(topic) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    head, *middle, tail = (re.escape(part) for part in re.sub(r"\*+", "*", pattern).split("*"))
    # The shortest match of each middle part is final (atomic), which keeps matching linear.
    made = head + "".join(f"(?>.*?{part})" for part in middle) + ".*" + tail
    return re.compile(made, re.DOTALL)


def writable_source(principal: str) -> str:
    """A principal as a header value."""
    return quote(principal, safe="@:/+ ")[:_SOURCE_CHARS_MAX]


def readable_source(value: str) -> str:
    """Invert ``writable_source``."""
    return unquote(value[:_SOURCE_CHARS_MAX])
