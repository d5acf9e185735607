"""``settings`` of servers of type ``openapi``: an HTTP API that describes itself."""

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.server_definitions import is_secret_reference, url_problem

__all__ = ["OpenApiSettings", "openapi_problem", "openapi_secrets"]

PATTERNS_MAX = 256
CREDENTIALS_MAX = 16

Pattern = Annotated[str, Meta(min_length=1, max_length=512)]


class OpenApiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the description is, and which operations of it become tools.

    The definition's ``url`` is the API itself; without one it is the first of the document's
    ``servers``, and then no credential can be given: a document does not decide who gets one.

    Attributes:
        document: OpenAPI 3.0 or 3.1 as a URL, as a file of the runner, or as the document itself
            (an object, or a JSON or YAML text). A document of the same origin as ``url`` is
            fetched with its credentials, any other without.
        include: patterns of the operations taken; () = all. A pattern is matched against the tool
            name and ``operationId`` (``list*``), with a space in it against method and path
            (``GET /pets/*``), after ``tag:`` against the tags.
        exclude: patterns of operations left out, after ``include``.
        credentials: security scheme of the document -> secret reference: the key of an ``apiKey``
            scheme, the token of ``http`` ``bearer``, ``user:password`` of ``http`` ``basic``. Sent
            with the operations that name the scheme.
        output_schemas: whether tools promise the form of their results. Turn it off for an API
            whose answers do not keep to its own document.
        answer_bytes_max: longest answer taken, in bytes.
    """

    document: str | dict[str, Any]
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    credentials: dict[str, str] = {}
    output_schemas: bool = True
    answer_bytes_max: Annotated[int, Meta(ge=1024, le=32 * 1024 * 1024)] = 8 * 1024 * 1024


def openapi_problem(definition: ServerDefinition, settings: OpenApiSettings) -> str | None:
    """What does not fit together, as public text."""
    document = settings.document
    if isinstance(document, str):
        if not document.strip():
            return "document must be a URL, a file or the document itself"
        if document.startswith(("http://", "https://")):
            problem = url_problem("document", document)
            if problem is not None:
                return problem
    if len(settings.include) > PATTERNS_MAX or len(settings.exclude) > PATTERNS_MAX:
        return f"at most {PATTERNS_MAX} patterns in include and in exclude"
    if len(settings.credentials) > CREDENTIALS_MAX:
        return f"at most {CREDENTIALS_MAX} credentials"
    for scheme, reference in settings.credentials.items():
        if not is_secret_reference(reference):
            return (
                f"credentials.{scheme[:64]} must name a secret as env:NAME or file:PATH, "
                "never hold it"
            )
    if settings.credentials and not definition.url:
        return "credentials are given to the definition's url only; name it"
    return None


def openapi_secrets(settings: OpenApiSettings) -> Iterable[str]:
    """The secrets that the settings name."""
    return settings.credentials.values()
