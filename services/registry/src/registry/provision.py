"""Every stream of the mesh, made here and nowhere else.

Those of the platform are ensured at the start, after each reconnect and from time to time: a
broker that lost its disk, or a person who deleted one, leaves everybody else without. Those of
tenants are made when a runner asks; it names a purpose and a tenant, never a configuration.
"""

import asyncio
import logging

import msgspec

from mcp_proto import buckets
from mcp_proto.buckets import Bucket
from mcp_proto.contracts.provision import Ensure, Ensured
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import stream_of
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import ApiError, api
from mesh_chassis.stream import StreamConfig, make_stream, stream_exists
from mesh_chassis.tenant_streams import TenantBounds, stream_for
from registry.config import BucketsConfig, RegistryConfig
from registry.store.streams import shared_streams

__all__ = ["Provision", "platform_streams"]

LOOK_AGAIN_S = 60.0
RETRY_S = 1.0
LOOK_S = 5.0

_log = logging.getLogger(__name__)


class _Names(msgspec.Struct, frozen=True):
    total: int = 0


def platform_streams(config: RegistryConfig) -> tuple[StreamConfig, ...]:
    """Every stream that is there from the first start on, buckets first."""
    replicas = config.streams.replicas
    made = (
        stream_of(_sized(one, config.buckets), replicas=replicas) for one in buckets.OF_PLATFORM
    )
    return (*made, *shared_streams(config.streams))


class Provision:
    """Makes streams and keeps them.

    Args:
        bus: with the right to make streams.
        config: sizes and copies.
    """

    def __init__(self, bus: Bus, config: RegistryConfig) -> None:
        self._bus = bus
        self._platform = platform_streams(config)
        self._bounds = TenantBounds(
            bytes_max=config.buckets.tenant_bytes_max, unsized=config.buckets.tenant_unsized
        )
        self._most = config.buckets.streams_max
        self._again = asyncio.Event()
        self.complete = False
        """Whether all streams of the platform were there when last looked at."""

    async def ensure_platform(self) -> None:
        """Make what is missing of the platform and bring the rest up to date.

        Raises:
            MeshError: the broker refuses or does not answer.
        """
        for stream in self._platform:
            if (await make_stream(self._bus, stream)).changed:
                _log.info("made or changed a stream", extra={"stream": stream.name})
        self.complete = True

    async def look_again(self) -> None:
        """Have ``run`` look at once: a new broker may have nothing."""
        self._again.set()

    async def run(self) -> None:
        """Keep the platform's streams; runs until cancelled."""
        wait_s = LOOK_AGAIN_S
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._again.wait()
            except TimeoutError:
                pass
            self._again.clear()
            wait_s = LOOK_AGAIN_S
            try:
                await self.ensure_platform()
            except MeshError as error:
                self.complete = False
                _log.warning("streams of the platform: %s", error.message)
                wait_s = RETRY_S

    async def ensure(self, wanted: Ensure) -> Ensured:
        """Operation ``registry.ensure``.

        Raises:
            MeshError: ``params`` for what is no tenant, ``overloaded`` when there are too many
                streams or the disk has no room, or the broker does not answer.
        """
        config = stream_for(wanted, self._bounds)
        await self._check_number(config.name)
        made = await make_stream(self._bus, config)
        if made.changed:
            told = {"stream": config.name, "bytes_max": made.config.max_bytes}
            _log.info("made or changed storage of a tenant", extra=told)
        return Ensured(stream=config.name, bytes_max=made.config.max_bytes, changed=made.changed)

    async def _check_number(self, name: str) -> None:
        """A runner that is broken into may name any tenant, but not fill the broker with them."""
        try:
            if await stream_exists(self._bus, name, timeout_s=LOOK_S):
                return
            there = (await api(self._bus, "STREAM.NAMES", b"", _Names, timeout_s=LOOK_S)).total
        except ApiError as error:
            raise MeshError(
                ErrorKind.INTERNAL, "the streams cannot be counted", internal=str(error)
            ) from error
        if there >= self._most:
            _log.error("no storage is made for more tenants", extra={"streams": there})
            raise MeshError(ErrorKind.OVERLOADED, "the mesh has too many stores of tenants")


def _sized(bucket: Bucket, config: BucketsConfig) -> Bucket:
    sizes = {
        buckets.TASKS.name: config.tasks_bytes,
        buckets.IDEMPOTENCY.name: config.idempotency_bytes,
    }
    return msgspec.structs.replace(bucket, bytes_max=sizes.get(bucket.name, bucket.bytes_max))
