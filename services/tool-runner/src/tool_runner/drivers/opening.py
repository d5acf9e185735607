"""Opens the stores of the configured backend; the toolsets see nothing of it."""

from collections.abc import Awaitable, Callable, Coroutine

import msgspec

from mesh_chassis.bus.connection import Bus
from tool_runner.config import LimitsConfig, StorageConfig
from tool_runner.drivers.jetstream.artifacts import JetStreamArtifacts
from tool_runner.drivers.jetstream.events import JetStreamEvents
from tool_runner.drivers.jetstream.streams import StreamSettings, TenantStreams
from tool_runner.drivers.jetstream.usage import Usage
from tool_runner.drivers.jetstream.values import JetStreamValues
from tool_runner.drivers.objects import Objects
from tool_runner.drivers.storage import ArtifactStore, EventStore, Storage

__all__ = ["Stores", "open_jetstream", "open_stores"]


class Stores(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner stores in.

    Attributes:
        values: of the ``kv`` tools.
        artifacts: of the ``artifacts`` tools.
        events: of the ``events`` tools.
        objects: of large results, on the broker whatever the backend.
        run: what has to run beside them, until cancelled.
        close: ends them.
    """

    values: Storage
    artifacts: ArtifactStore
    events: EventStore
    objects: Objects
    run: Callable[[], Coroutine[object, object, None]]
    close: Callable[[], Awaitable[None]]


def open_stores(bus: Bus, storage: StorageConfig, limits: LimitsConfig) -> Stores:
    """Stores of the configured backend.

    Raises:
        ConfigError: something that the backend needs is not configured.
    """
    kept = open_jetstream(bus, storage, limits)
    if storage.backend == "jetstream":
        return kept
    # Half a second of imports that nobody without AWS pays for.
    from tool_runner.drivers.aws.opening import open_aws  # noqa: PLC0415

    return open_aws(storage, kept)


def open_jetstream(bus: Bus, storage: StorageConfig, limits: LimitsConfig) -> Stores:
    """Stores on the mesh's own broker."""
    settings = StreamSettings(
        replicas=storage.replicas,
        kv_replicas=limits.kv_replicas,
        kv_bytes=limits.kv_bytes,
        events_bytes=storage.events_bytes,
        events_age_s=storage.events_age_s,
    )
    streams = TenantStreams(bus, settings)
    usage = Usage(bus, storage.quota)
    artifacts = JetStreamArtifacts(bus, streams, usage)
    events = JetStreamEvents(bus, streams)

    async def close() -> None:
        await artifacts.close()
        await events.close()

    return Stores(
        values=JetStreamValues(bus, streams, usage),
        artifacts=artifacts,
        events=events,
        objects=Objects(bus, streams, usage),
        run=artifacts.run,
        close=close,
    )
