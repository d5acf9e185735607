"""``settings`` of servers of type ``docker``: the containers and images of a Docker engine."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition

__all__ = ["DEFAULT_SOCKET", "DockerSettings", "docker_problem"]

DEFAULT_SOCKET = "/var/run/docker.sock"
"""Where an engine listens that was not told otherwise."""

PATTERNS_MAX = 64

Pattern = Annotated[str, Meta(min_length=1, max_length=256)]


class DockerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which engine, and what of it is shown.

    Attributes:
        socket: Unix socket of the engine; "" = /var/run/docker.sock. Not beside ``url``
            (``http://HOST:2375``, what Docker writes as ``tcp://``).
        containers: patterns of container names (``web-*``); () = any. Other containers do not
            exist for callers.
        labels: ``key`` or ``key=value`` that a container must have, all of them; () = none.
        read_only: without the tools ``start``, ``stop`` and ``restart``.
        tls_cert_file: certificate shown to an engine at an https ``url``.
        tls_key_file: its key.
    """

    socket: Annotated[str, Meta(max_length=107)] = ""
    containers: tuple[Pattern, ...] = ()
    labels: tuple[Pattern, ...] = ()
    read_only: bool = False
    tls_cert_file: str = ""
    tls_key_file: str = ""


def docker_problem(definition: ServerDefinition, settings: DockerSettings) -> str | None:
    """What does not fit together, as public text."""
    if definition.url and settings.socket:
        return "socket and url are two engines; give one"
    if settings.socket and not settings.socket.startswith("/"):
        return "socket must be an absolute path"
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        return "tls_cert_file and tls_key_file belong together"
    if settings.tls_cert_file and not definition.url.startswith("https://"):
        return "tls_cert_file is for an https url"
    if len(settings.containers) > PATTERNS_MAX or len(settings.labels) > PATTERNS_MAX:
        return f"at most {PATTERNS_MAX} containers and {PATTERNS_MAX} labels"
    if any(not label.partition("=")[0] for label in settings.labels):
        return "labels are key or key=value"
    return None
