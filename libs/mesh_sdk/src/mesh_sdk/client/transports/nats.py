"""Over the bus: calls on the subjects of the gateway, with frames, claim checks and cancel.

The chassis does all of it; here is what a client adds: who it is, and at which endpoint.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto import subjects
from mcp_proto.codec import encode_request
from mcp_proto.endpoints import EndpointEnvelope
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.jsonrpc import ErrorResponse, Notification, Response
from mcp_proto.limits import CALL_TIMEOUT_MAX_S
from mesh_chassis.bus.connection import Bus
from mesh_sdk.client.errors import MeshCallError, lost
from mesh_sdk.client.transports.answers import check_size, read_message, result_of, tell
from mesh_sdk.client.transports.transport import Hear, Outgoing

__all__ = ["BusSeat", "NatsTransport"]


class _Envelope(EndpointEnvelope, frozen=True, kw_only=True):
    """Headers with the client's key beside them."""

    credential: str = ""

    def to_headers(self) -> dict[str, str]:
        headers = EndpointEnvelope.to_headers(self)
        if self.credential:
            headers[Header.CREDENTIAL] = self.credential
        return headers

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "_Envelope(…)"


class BusSeat:
    """A connection to the broker, and as whom.

    Args:
        bus: connected.
        lock: descriptor that keeps the broker user to this program; -1 = none.
        plain: a plain client of one tenant, from whom nobody pulls large bodies.
        owned: the connection ends with the transport.
    """

    __slots__ = ("bus", "lock", "owned", "plain")

    def __init__(
        self, bus: Bus, *, lock: int = -1, plain: bool = False, owned: bool = True
    ) -> None:
        self.bus = bus
        self.lock = lock
        self.plain = plain
        self.owned = owned

    async def leave(self) -> None:
        """Close the connection and give the user back."""
        try:
            if self.owned:
                await self.bus.close()
        finally:
            lock, self.lock = self.lock, -1
            if lock >= 0:
                os.close(lock)


class NatsTransport:
    """``Transport`` over NATS; reconnects by itself.

    Args:
        connect: makes the connection.
        tenant: tenant of the subjects.
        key: API key or token; "" = none: in development the demo principal.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[BusSeat]], *, tenant: str, key: str = ""
    ) -> None:
        self._connect = connect
        self._tenant = tenant
        self._key = key
        self._seat: BusSeat | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """See ``Transport.open``."""
        async with self._opening:
            if self._seat is None:
                try:
                    self._seat = await self._connect()
                except MeshError as error:
                    raise MeshCallError.of(error) from None

    async def close(self) -> None:
        """See ``Transport.close``."""
        seat, self._seat = self._seat, None
        if seat is not None:
            await seat.leave()

    async def send(self, request: Outgoing, hear: Hear | None = None) -> msgspec.Raw:
        """See ``Transport.send``."""
        if self._seat is None:
            raise lost("the client is closed", Outcome.NOT_EXECUTED)
        bus = self._seat.bus
        request_id = bus.new_request_id()
        message = encode_request(request.method, request_id, request.params)
        check_size(message)
        if self._seat.plain and len(message) > bus.inline_max:
            raise MeshCallError(
                ErrorKind.TOO_LARGE,
                f"a plain NATS client sends at most {bus.inline_max} bytes; use the HTTP address",
                data={"maxBytes": bus.inline_max},
            )

        def frame(body: bytes) -> None:
            note = read_message(body)
            if isinstance(note, Notification):
                tell(hear, note)

        try:
            body = await bus.call(
                subjects.gateway(self._tenant, request.method),
                message,
                envelope=_Envelope(
                    method=request.method,
                    request_id=request_id,
                    endpoint=request.endpoint,
                    credential=self._key,
                ),
                timeout_s=CALL_TIMEOUT_MAX_S if request.listens else request.timeout_s,
                tenant=self._tenant,
                on_frame=frame if hear is not None else None,
            )
        except MeshError as error:
            raise MeshCallError.of(error) from None
        answer = read_message(body)
        if isinstance(answer, Response | ErrorResponse):
            return result_of(answer)
        raise lost("the answer holds no response", Outcome.UNKNOWN)
