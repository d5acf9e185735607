"""``[containers]`` of ``mesh.toml`` and of a runner: how servers from images are run."""

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["ContainersTable"]


class ContainersTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[containers]``: how servers with an ``image`` are run.

    Attributes:
        engine: the Docker engine: ``unix:///path`` or ``tcp://HOST:PORT``. Who reaches it is
            root where it runs.
        pull: have it fetch images that it does not have.
        memory_mb: memory of a container whose definition says nothing, in MiB; tenants' own
            servers may have less, not more. The same holds for the next two.
        pids: processes and threads.
        cpus: processors.
        tenant_networks: networks that containers of tenants' own servers may have.
    """

    engine: Annotated[str, Meta(pattern=r"\A(unix:///[^\0]+|tcp://[^/@\0]+)\Z")] = (
        "unix:///var/run/docker.sock"
    )
    pull: bool = True
    memory_mb: Annotated[int, Meta(ge=6, le=1024 * 1024)] = 512
    pids: Annotated[int, Meta(ge=1, le=100_000)] = 256
    cpus: Annotated[float, Meta(gt=0, le=1024)] = 2.0
    tenant_networks: tuple[str, ...] = ()
