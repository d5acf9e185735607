"""``$ref`` inside a document.

Other documents are never fetched: who writes a reference would decide where this runner looks.
"""

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

from tool_runner.server_types.openapi.document import DocumentError

__all__ = ["References", "mapping"]

CHAIN_MAX = 16
"""References that lead to references, in a row."""


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


class References:
    """The places of one document.

    Args:
        document: by ``document.parse``.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def at(self, reference: object) -> object:
        """The value a reference names.

        Raises:
            DocumentError: it leads out of the document, or to nothing.
        """
        if not isinstance(reference, str) or not reference.startswith("#"):
            shown = str(reference)[:128]
            raise DocumentError(f"$ref {shown}: only references inside the document are followed")
        found: object = self._document
        for part in reference[1:].split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = cast("dict[str, object]", found)[key]
            elif (
                isinstance(found, list)
                and key.isdecimal()
                and int(key) < len(cast("list[object]", found))
            ):
                found = cast("list[object]", found)[int(key)]
            else:
                raise DocumentError(f"$ref {reference[:128]}: there is nothing at this place")
        return found

    def follow(self, value: object) -> Mapping[str, Any]:
        """An object, or what it refers to.

        Raises:
            DocumentError: as ``at``; or it is no object, or refers round in a circle.
        """
        for _ in range(CHAIN_MAX):
            if not isinstance(value, dict):
                raise DocumentError(f"an object was expected, not {str(value)[:64]!r}")
            found = cast("dict[str, Any]", value)
            if "$ref" not in found:
                return found
            value = self.at(found["$ref"])
        raise DocumentError(f"more than {CHAIN_MAX} references lead to one another")
