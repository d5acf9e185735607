"""Credentials that the settings name, as the security schemes of a document want them sent."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tool_runner.server_types.openapi.document import DocumentError
from tool_runner.server_types.openapi.operations import Operation
from tool_runner.server_types.openapi.references import References, mapping
from tool_runner.server_types.openapi.requests import Extra
from tool_runner.upstreams.secrets import secret

__all__ = ["Credentials"]


class _Scheme(msgspec.Struct, frozen=True, kw_only=True):
    """``kind``: header, query, cookie, bearer or basic; ``name`` = of the first three."""

    kind: str
    name: str
    reference: str


class Credentials:
    """What is sent with which operation.

    Args:
        document: checked.
        references: name of a scheme -> secret reference.
        server: name of the server, for errors.

    Raises:
        DocumentError: the document has no such scheme, or one that a secret alone cannot serve.
    """

    def __init__(
        self, document: Mapping[str, Any], references: Mapping[str, str], server: str
    ) -> None:
        known = mapping(mapping(document.get("components")).get("securitySchemes"))
        places = References(document)
        self._server = server
        self._schemes: dict[str, _Scheme] = {}
        for name, reference in references.items():
            if name not in known:
                there = ", ".join(known) or "none"
                raise DocumentError(
                    f"credentials.{name[:64]}: the document has no such security scheme; it has "
                    f"{there[:200]}"
                )
            self._schemes[name] = _scheme(name, places.follow(known[name]), reference)

    @property
    def own(self) -> list[str]:
        """What no caller sets: headers, ``?`` before names of the query, ``;`` before cookies."""
        marks = {"header": "", "query": "?", "cookie": ";"}
        return [
            marks[one.kind] + one.name.lower()
            for one in self._schemes.values()
            if one.kind in marks
        ]

    def of(self, operation: Operation) -> Extra:
        """What is sent with an operation: its first alternative that all secrets are there for.

        Raises:
            MeshError: ``upstream``, not executed: a secret is missing.
        """
        for alternative in operation.security:
            if alternative and alternative <= self._schemes.keys():
                return self._extra(self._schemes[name] for name in sorted(alternative))
        return Extra()

    def _extra(self, schemes: Iterable[_Scheme]) -> Extra:
        headers: dict[str, str] = {}
        query: list[tuple[str, str]] = []
        cookies: list[str] = []
        for one in schemes:
            value = secret(one.reference, self._server)
            match one.kind:
                case "header":
                    headers[one.name] = value
                case "query":
                    query.append((one.name, value))
                case "cookie":
                    cookies.append(f"{one.name}={value}")
                case "basic":
                    packed = base64.b64encode(value.encode()).decode()
                    headers["Authorization"] = f"Basic {packed}"
                case _:
                    headers["Authorization"] = f"Bearer {value}"
        return Extra(headers=headers, query=tuple(query), cookies=tuple(cookies))


def _scheme(name: str, given: Mapping[str, Any], reference: str) -> _Scheme:
    kind, place = given.get("type"), given.get("in")
    if kind == "apiKey" and place in {"header", "query", "cookie"}:
        return _Scheme(kind=str(place), name=str(given.get("name", "")), reference=reference)
    scheme = str(given.get("scheme", "")).lower()
    if kind == "http" and scheme in {"bearer", "basic"}:
        return _Scheme(kind=scheme, name="Authorization", reference=reference)
    raise DocumentError(
        f"credentials.{name[:64]}: the scheme is of type {str(kind)[:32]}; a secret serves apiKey, "
        "http bearer and http basic. For OAuth use the definition's oauth or bearer"
    )
