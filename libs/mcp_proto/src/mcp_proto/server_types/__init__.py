"""Types of servers that can be deployed: what ``settings`` of each may hold.

A server of type ``custom`` is an MCP server of somebody else's; how it is reached is in
``mcp_proto.server_definitions``. Every other type is run by the runner itself, from ``settings``,
which have one strict Struct per type in the module of that name. Types that call something over
HTTP use ``url``, ``headers``, ``bearer``, ``oauth``, ``allow_private`` and ``tls_ca_file`` of the
definition, under the same rules.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.server_definitions import (
    ERAS,
    connection_problem,
    http_problem,
    isolation_problem,
)
from mcp_proto.server_types.command import CommandSettings, command_problem, command_secrets
from mcp_proto.server_types.docker import DockerSettings, docker_problem
from mcp_proto.server_types.kubernetes import KubernetesSettings, kubernetes_problem
from mcp_proto.server_types.openapi import OpenApiSettings, openapi_problem, openapi_secrets
from mcp_proto.server_types.prometheus import PrometheusSettings
from mcp_proto.server_types.synadia import SynadiaSettings, synadia_problem
from mcp_proto.server_types.wasm import WasmSettings, wasm_problem

__all__ = [
    "CUSTOM",
    "TYPES",
    "ServerType",
    "server_problem",
    "settings_of",
    "settings_secrets",
]

CUSTOM = "custom"
"""The type of a definition that names none."""

S = TypeVar("S", bound=msgspec.Struct)


class ServerType(msgspec.Struct, frozen=True, kw_only=True):
    """One type.

    Attributes:
        settings: strict Struct of its ``settings``.
        remote: whether it calls the definition's ``url``; then there must be one.
        url_optional: of a remote one: it may also be reached without ``url``.
        problem: what is wrong with settings that decode; None when nothing is.
        fit: what of settings and the rest of the definition does not fit together.
        secrets: references to secrets (``env:NAME``, ``aws:NAME``) that its settings hold.
    """

    settings: type[msgspec.Struct]
    remote: bool = False
    url_optional: bool = False
    problem: Callable[[Any], str | None] | None = None
    fit: Callable[[ServerDefinition, Any], str | None] | None = None
    secrets: Callable[[Any], Iterable[str]] | None = None


TYPES: Mapping[str, ServerType] = {
    "docker": ServerType(
        settings=DockerSettings, remote=True, url_optional=True, fit=docker_problem
    ),
    "kubernetes": ServerType(
        settings=KubernetesSettings, remote=True, url_optional=True, fit=kubernetes_problem
    ),
    "prometheus": ServerType(settings=PrometheusSettings, remote=True),
    "openapi": ServerType(
        settings=OpenApiSettings,
        remote=True,
        url_optional=True,
        fit=openapi_problem,
        secrets=openapi_secrets,
    ),
    "command": ServerType(settings=CommandSettings, fit=command_problem, secrets=command_secrets),
    "wasm": ServerType(settings=WasmSettings, fit=wasm_problem),
    "synadia": ServerType(settings=SynadiaSettings, fit=synadia_problem),
}
"""Every type but ``custom``."""


def settings_of(definition: ServerDefinition, kind: type[S]) -> S:
    """The settings of a definition.

    Raises:
        msgspec.ValidationError: they are not of that kind; names the path and what was expected.
    """
    return msgspec.convert(definition.settings, kind)


def settings_secrets(definition: ServerDefinition) -> tuple[str, ...]:
    """References to secrets in the settings of a definition that passed ``server_problem``."""
    known = TYPES.get(definition.type)
    if known is None or known.secrets is None:
        return ()
    return tuple(known.secrets(settings_of(definition, known.settings)))


def server_problem(definition: ServerDefinition) -> str | None:
    """What is wrong with what a server is and how it is reached, as public text; None = nothing."""
    if definition.type == CUSTOM:
        if definition.settings:
            return f"settings are for types {', '.join(TYPES)}; this server is {CUSTOM}"
        return connection_problem(definition)
    known = TYPES.get(definition.type)
    if known is None:
        return f"type must be one of {', '.join((CUSTOM, *TYPES))}"
    return _foreign_problem(definition, known) or _settings_problem(definition, known)


def _foreign_problem(definition: ServerDefinition, known: ServerType) -> str | None:
    kind = definition.type
    if definition.transport != "stdio" or definition.era != ERAS[0]:
        return f"transport and era are for type {CUSTOM}; this server is {kind}"
    if definition.command or definition.args or definition.env or definition.cwd:
        return f"command, args, env and cwd are for type {CUSTOM}; this server is {kind}"
    if definition.image or definition.container is not None:
        return f"image and container are for type {CUSTOM}; this server is {kind}"
    if definition.type == "command":
        problem = isolation_problem(definition)
        if problem is not None:
            return problem
    elif definition.isolation or definition.sandbox is not None:
        return f"isolation and sandbox are for servers that are processes; this server is {kind}"
    if known.remote and (definition.url or not known.url_optional):
        return http_problem(definition)
    given = (
        ("url", definition.url),
        ("headers", definition.headers),
        ("bearer", definition.bearer),
        ("oauth", definition.oauth),
        ("allow_private", definition.allow_private),
        ("tls_ca_file", definition.tls_ca_file),
    )
    for field, value in given:
        if value:
            without = " without a url" if known.url_optional else ""
            return f"{field} is not for servers of type {kind}{without}"
    return None


def _settings_problem(definition: ServerDefinition, known: ServerType) -> str | None:
    try:
        settings = settings_of(definition, known.settings)
    except msgspec.ValidationError as error:
        return f"settings: {error}"
    problem = known.problem(settings) if known.problem is not None else None
    if problem is None and known.fit is not None:
        problem = known.fit(definition, settings)
    return f"settings: {problem}" if problem else None
