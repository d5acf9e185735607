"""Secrets that a server's definition names: read when a connection is opened, never kept in it."""

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_definitions import is_secret_reference
from mesh_chassis.config import ConfigError, read_secret

__all__ = ["foreign_secret", "secret"]

_RUNNER_OWN = "MESH_"


def secret(reference: str, server: str) -> str:
    """The secret behind ``env:NAME`` or ``file:PATH``, without surrounding white space.

    Reads a small file; blocking is shorter than handing it to a thread.

    Raises:
        MeshError: ``upstream``, not executed: it is not there. Its value is never shown.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name, "").strip()
        if not value:
            raise _missing(server, f"environment variable {name} of the runner is not set")
    else:
        try:
            value = read_secret(name, key="")
        except ConfigError as error:
            raise _missing(server, f"secret file {name}: {error.reason}") from None
    if not value.isascii() or not value.isprintable():
        raise _missing(server, f"the secret {reference} is no printable text")
    return value


def foreign_secret(
    definition: ServerDefinition, *, trusted: bool, tenant_secrets: Iterable[str]
) -> str | None:
    """A secret that this definition may not use, as public text; None = all are its own.

    The runner's own variables (``MESH_…``) are nobody's; a tenant's server added at run time may
    use only what ``tenant_secrets`` (patterns of references) gives away.
    """
    named = [definition.bearer, *definition.headers.values()]
    if definition.oauth is not None:
        named.append(definition.oauth.client_secret)
    allowed = tuple(tenant_secrets)
    for reference in named:
        if not is_secret_reference(reference):
            continue
        own = reference.startswith(f"env:{_RUNNER_OWN}")
        given = any(fnmatchcase(reference, pattern) for pattern in allowed)
        if own or not (trusted or (given and ".." not in reference)):
            return f"it may not use the secret {reference}"
    return None


def _missing(server: str, what: str) -> MeshError:
    return MeshError(
        ErrorKind.UPSTREAM,
        f"server {server}: {what}",
        data={"upstream": server},
        outcome=Outcome.NOT_EXECUTED,
    )
