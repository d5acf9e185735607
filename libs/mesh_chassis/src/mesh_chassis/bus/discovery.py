"""ADR-32 service discovery: ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS`` of one process.

Any NATS micro tool (``nats micro``, the official clients) sees services and endpoints. The stock
micro class of nats-py is not used: it cannot drain, and it forces a queue group on everything.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Endpoint
from mesh_chassis.bus.frames import repliable
from mesh_chassis.bus.wire import DirectRoute

__all__ = ["Discovery"]

_PREFIX = "io.nats.micro.v1"
_encoder = msgspec.json.Encoder()


class _EndpointInfo(msgspec.Struct, frozen=True):
    name: str
    subject: str
    queue_group: str
    metadata: dict[str, str]


class _EndpointStats(msgspec.Struct, frozen=True):
    name: str
    subject: str
    queue_group: str
    num_requests: int
    num_errors: int
    last_error: str
    processing_time: int
    average_processing_time: int
    data: dict[str, int]


class _Ping(msgspec.Struct, frozen=True, kw_only=True):
    type: str = f"{_PREFIX}.ping_response"
    name: str
    id: str
    version: str
    metadata: dict[str, str]


class _Info(msgspec.Struct, frozen=True, kw_only=True):
    type: str = f"{_PREFIX}.info_response"
    name: str
    id: str
    version: str
    metadata: dict[str, str]
    description: str
    endpoints: list[_EndpointInfo]


class _Stats(msgspec.Struct, frozen=True, kw_only=True):
    type: str = f"{_PREFIX}.stats_response"
    name: str
    id: str
    version: str
    metadata: dict[str, str]
    started: str
    endpoints: list[_EndpointStats]


class Discovery:
    """Answers for one service instance; endpoints are read when asked.

    Args:
        bus: connection; its service is the name, its instance the id.
        version: semantic version.
        endpoints: what is served, looked at on each request.
        description: one sentence.
        metadata: further facts as strings.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        version: str,
        endpoints: Iterable[Endpoint],
        description: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._bus = bus
        self._version = version
        self._description = description
        self._endpoints = endpoints
        self._metadata = dict(metadata or {})
        self._started = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._routes: list[DirectRoute] = []

    async def start(self) -> None:
        """Subscribe the nine control subjects.

        Raises:
            MeshError: ``denied``, ``lost``.
        """
        answers = {"PING": self._ping, "INFO": self._info, "STATS": self._stats}
        name, instance = self._bus.service, self._bus.instance
        subject = ""
        for verb, make in answers.items():
            for subject in (
                f"$SRV.{verb}",
                f"$SRV.{verb}.{name}",
                f"$SRV.{verb}.{name}.{instance}",
            ):
                route = await self._bus.client.add_route(subject, "", self._answering(make))
                self._routes.append(route)
        await self._bus.confirm(subject, self.stop)

    async def stop(self) -> None:
        """End the subscriptions."""
        routes, self._routes = self._routes, []
        for route in routes:
            await self._bus.client.unsubscribe_route(route)
            self._bus.client.forget_route(route)

    def _answering(
        self, make: Callable[[], msgspec.Struct]
    ) -> Callable[[bytes, bytes, bytes, bytes], None]:
        def answer(subject: bytes, reply: bytes, payload: bytes, block: bytes) -> None:
            if reply and repliable(reply) and self._bus.connected:
                self._bus.client.send(reply.decode(), "", _encoder.encode(make()), b"")

        return answer

    def _ping(self) -> _Ping:
        return _Ping(
            name=self._bus.service,
            id=self._bus.instance,
            version=self._version,
            metadata=self._metadata,
        )

    def _info(self) -> _Info:
        return _Info(
            name=self._bus.service,
            id=self._bus.instance,
            version=self._version,
            metadata=self._metadata,
            description=self._description,
            endpoints=[
                _EndpointInfo(endpoint.name, endpoint.subject, endpoint.queue, {})
                for endpoint in self._endpoints
            ],
        )

    def _stats(self) -> _Stats:
        return _Stats(
            name=self._bus.service,
            id=self._bus.instance,
            version=self._version,
            metadata=self._metadata,
            started=self._started,
            endpoints=[_stats_of(endpoint) for endpoint in self._endpoints],
        )


def _stats_of(endpoint: Endpoint) -> _EndpointStats:
    stats = endpoint.stats
    return _EndpointStats(
        name=endpoint.name,
        subject=endpoint.subject,
        queue_group=endpoint.queue,
        num_requests=stats.requests,
        num_errors=stats.errors,
        last_error=stats.last_error,
        processing_time=stats.processing_ns,
        average_processing_time=stats.processing_ns // max(1, stats.requests),
        data={
            "inflight": endpoint.inflight,
            "slots": endpoint.slots,
            "busy": stats.busy,
            "duplicates": stats.duplicates,
        },
    )
