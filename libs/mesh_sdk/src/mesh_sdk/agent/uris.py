"""URI templates of resources (RFC 6570, as far as resources need it): from a URI to its values."""

import re
from urllib.parse import parse_qsl, unquote

__all__ = ["UriTemplate", "is_template"]

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_NAMES = re.compile(r"(?P<operator>[+/?]?)(?P<names>\w+(?:,\w+)*)(?P<many>\*?)")


def is_template(uri: str) -> bool:
    """Whether a URI has parts that vary."""
    return "{" in uri


class UriTemplate:
    """A compiled template.

    ``{name}`` is one segment, ``{+name}`` and ``{name*}`` any text with slashes, ``{?a,b}`` a
    query whose members may be absent.

    Args:
        text: the template.

    Attributes:
        names: its variables, in order.
        optional: those of the query.

    Raises:
        ValueError: an expression that is none of these.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: tuple[str, ...] = ()
        self.optional: frozenset[str] = frozenset()
        pattern, at = "", 0
        for found in _EXPRESSION.finditer(text):
            pattern += re.escape(text[at : found.start()]) + self._expression(found[1])
            at = found.end()
        rest = text[at:]
        if "{" in rest or "}" in rest:
            raise ValueError(f"{text}: a brace is not closed")
        self._pattern = re.compile(pattern + re.escape(rest), re.DOTALL)

    def _expression(self, inside: str) -> str:
        found = _NAMES.fullmatch(inside)
        names: list[str] = found["names"].split(",") if found is not None else []
        if found is None or set(names) & set(self.names):
            raise ValueError(f"{self.text}: {{{inside}}} is no {{name}}, {{+name}} or {{?a,b}}")
        self.names += tuple(names)
        if found["operator"] == "?":
            self.optional |= set(names)
            return r"(?:\?(?P<query>[^#]*))?"
        if len(names) > 1:
            raise ValueError(f"{self.text}: {{{inside}}} has several names outside a query")
        slash = "/" if found["operator"] == "/" else ""
        many = found["operator"] == "+" or bool(found["many"])
        return f"{slash}(?P<{names[0]}>{'.+' if many else '[^/?#]+'})"

    def match(self, uri: str) -> dict[str, str] | None:
        """Values in a URI, percent-decoded; None when it does not fit."""
        found = self._pattern.fullmatch(uri)
        if found is None:
            return None
        values = {
            name: unquote(text)
            for name, text in found.groupdict().items()
            if name != "query" and text is not None
        }
        query = found.groupdict().get("query") or ""
        given = dict(parse_qsl(query, keep_blank_values=True))
        values.update((name, given[name]) for name in self.optional if name in given)
        return values
