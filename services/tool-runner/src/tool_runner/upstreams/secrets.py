"""Secrets that a server's definition names: read when a connection is opened, never kept in it.

Variables and files are read on the spot. What lies behind a network (``aws:NAME``) is fetched
before a life of the server begins, by ``prepare_secrets``, and read from memory from then on.
"""

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Protocol

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_definitions import is_secret_reference
from mcp_proto.server_types import settings_secrets
from mesh_chassis.config import ConfigError, read_secret

__all__ = ["RemoteSecrets", "foreign_secret", "prepare_secrets", "secret", "use_remote_secrets"]

_RUNNER_OWN = "MESH_"
_REMOTE = "aws"


class RemoteSecrets(Protocol):
    """A store of secrets behind a network."""

    async def prepare(self, names: Iterable[str]) -> None:
        """Fetch what is not known, or not any more.

        Raises:
            MeshError: it cannot be had, as public text.
        """
        ...

    def value(self, name: str) -> str:
        """A secret that was prepared; it may be renewed in the background.

        Raises:
            MeshError: it cannot be had, as public text.
        """
        ...


_remote: dict[str, RemoteSecrets] = {}


def use_remote_secrets(store: RemoteSecrets | None) -> None:
    """Where this process finds ``aws:`` secrets; like its environment, there is one of it."""
    _remote.clear()
    if store is not None:
        _remote[_REMOTE] = store


async def prepare_secrets(definition: ServerDefinition) -> None:
    """Fetch what ``secret`` will be asked for in a life of this server.

    Raises:
        MeshError: ``upstream``, not executed: one cannot be had. Its value is never shown.
    """
    kinds = (reference.partition(":") for reference in _references(definition))
    names = [name for kind, _, name in kinds if kind == _REMOTE]
    if not names:
        return
    try:
        await _store(definition.name).prepare(names)
    except MeshError as error:
        raise _missing(definition.name, error.message) from None


def secret(reference: str, server: str) -> str:
    """The secret behind a reference, without surrounding white space.

    Reads a small file; blocking is shorter than handing it to a thread. ``aws:`` secrets were
    fetched by ``prepare_secrets``.

    Raises:
        MeshError: ``upstream``, not executed: it is not there. Its value is never shown.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name, "").strip()
        if not value:
            raise _missing(server, f"environment variable {name} of the runner is not set")
    elif kind == _REMOTE:
        try:
            value = _store(server).value(name)
        except MeshError as error:
            raise _missing(server, error.message) from None
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
    use only what ``tenant_secrets`` (patterns of references, ``{tenant}`` in them stands for the
    tenant's id) gives away.
    """
    allowed = tuple(one.replace("{tenant}", definition.tenant) for one in tenant_secrets)
    for reference in _references(definition):
        own = reference.startswith(f"env:{_RUNNER_OWN}")
        given = any(fnmatchcase(reference, pattern) for pattern in allowed)
        if own or not (trusted or (given and ".." not in reference)):
            return f"it may not use the secret {reference}"
    return None


def _references(definition: ServerDefinition) -> Iterator[str]:
    named = [definition.bearer, *definition.headers.values(), *settings_secrets(definition)]
    if definition.oauth is not None:
        named.append(definition.oauth.client_secret)
    return (reference for reference in named if is_secret_reference(reference))


def _store(server: str) -> RemoteSecrets:
    store = _remote.get(_REMOTE)
    if store is None:
        raise _missing(server, "this runner has no access to AWS secrets")
    return store


def _missing(server: str, what: str) -> MeshError:
    return MeshError(
        ErrorKind.UPSTREAM,
        f"server {server}: {what}",
        data={"upstream": server},
        outcome=Outcome.NOT_EXECUTED,
    )
