"""Which URIs an RFC 6570 template makes, decided in linear time.

Templates come from servers nobody vetted and URIs from clients, so no regular expression is made
of them: each literal is searched once, leftmost first. That accepts every URI of a template whose
expressions do not contain its literals, which is what templates are written like.
"""

import re

import msgspec

__all__ = ["UriPattern", "uri_pattern"]

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_WIDE = "+#/?&;."
"""Operators whose values may hold ``/``, ``?`` and ``#``; a plain expression may not."""
_STOP = frozenset("/?#")


class UriPattern(msgspec.Struct, frozen=True):
    """A template taken apart.

    Attributes:
        head: literal before the first expression.
        steps: per expression: may its value hold ``/``, and the literal behind it.
        literal_chars: how specific it is.
    """

    head: str
    steps: tuple[tuple[bool, str], ...]
    literal_chars: int

    def matches(self, uri: str) -> bool:
        """Whether the template can make ``uri``."""
        if not self.steps:
            return uri == self.head
        if not uri.startswith(self.head):
            return False
        at = len(self.head)
        for wide, literal in self.steps[:-1]:
            end = uri.find(literal, at)
            if end < 0 or not (wide or _STOP.isdisjoint(uri[at:end])):
                return False
            at = end + len(literal)
        wide, tail = self.steps[-1]
        end = len(uri) - len(tail)
        if end < at or not uri.endswith(tail):
            return False
        return wide or _STOP.isdisjoint(uri[at:end])


def uri_pattern(template: str) -> UriPattern:
    """Take a template apart; text that is no expression counts as literal."""
    found = list(_EXPRESSION.finditer(template))
    if not found:
        return UriPattern(template, (), len(template))
    ends = [*(match.start() for match in found[1:]), len(template)]
    steps = tuple(
        (match[1][:1] in _WIDE if match[1] else False, template[match.end() : end])
        for match, end in zip(found, ends, strict=True)
    )
    head = template[: found[0].start()]
    return UriPattern(head, steps, len(head) + sum(len(literal) for _, literal in steps))
