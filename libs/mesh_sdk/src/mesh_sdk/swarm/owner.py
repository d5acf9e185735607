"""What a host says to the owner of a swarm: requests that are short, bounded and repeatable.

A small body is one plain request; a large one travels as a claim check, as calls do.
"""

from typing import TypeVar

import msgspec

from mcp_proto.contracts.swarm import (
    Attach,
    Attached,
    Beat,
    BeatAnswer,
    ResultsTaken,
    WorkProgress,
    attach_subject,
    beat_subject,
    progress_subject,
    result_subject,
)
from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.frames import decode_error

__all__ = ["BEAT_TIMEOUT_S", "OwnerPort"]

T = TypeVar("T", bound=msgspec.Struct)

BEAT_TIMEOUT_S = 2.0
"""Longest wait for the answer to a beat or an attach: below the interval of beats."""
RESULTS_TIMEOUT_S = 10.0
"""Longest wait until a log has taken results: a log append is retried for so long."""
LARGE_TIMEOUT_S = 60.0
"""The same for a body that is pulled."""

_encode = msgspec.json.Encoder().encode
_TAKEN = msgspec.json.Decoder(ResultsTaken)
_BEAT = msgspec.json.Decoder(BeatAnswer)
_ATTACHED = msgspec.json.Decoder(Attached)


class OwnerPort:
    """The owner of one swarm, wherever it is.

    Args:
        bus: connected; its instance is the host.
        tenant: of the swarm.
        swarm: its id.
    """

    def __init__(self, bus: Bus, tenant: str, swarm: str) -> None:
        self._bus = bus
        self._tenant = tenant
        host = bus.instance
        self._attach = attach_subject(tenant, swarm, host)
        self._beat = beat_subject(tenant, swarm, host)
        self._result = result_subject(tenant, swarm, host)
        self._progress = progress_subject(tenant, swarm, host)

    async def attach(self, attach: Attach) -> Attached:
        """Take the place of an agent.

        Raises:
            MeshError: ``no_runner`` while nobody owns the swarm, and how the bus failed.
        """
        return await self._ask(self._attach, _encode(attach), _ATTACHED, BEAT_TIMEOUT_S)

    async def beat(self, beat: Beat) -> BeatAnswer:
        """Say what lives here.

        Raises:
            MeshError: as ``attach``.
        """
        return await self._ask(self._beat, _encode(beat), _BEAT, BEAT_TIMEOUT_S)

    async def results(self, body: bytes) -> ResultsTaken:
        """Deliver results (an encoded ``Results``).

        Raises:
            MeshError: as ``attach``; the results must be sent again.
        """
        large = len(body) > self._bus.inline_max
        timeout_s = LARGE_TIMEOUT_S if large else RESULTS_TIMEOUT_S
        return await self._ask(self._result, body, _TAKEN, timeout_s)

    async def progress(self, progress: WorkProgress) -> None:
        """Say how far an attempt is; lost without a sound when there is no connection."""
        if self._bus.connected:
            await self._bus.publish(self._progress, _encode(progress))

    async def _ask(
        self, subject: str, body: bytes, decoder: msgspec.json.Decoder[T], timeout_s: float
    ) -> T:
        if len(body) > self._bus.inline_max:
            envelope = RequestEnvelope()
            answer = await self._bus.call(
                subject, body, envelope=envelope, timeout_s=timeout_s, tenant=self._tenant
            )
        else:
            headers = {
                Header.WIRE.value: "1",
                Header.TIMEOUT_MS.value: str(int(timeout_s * 1000)),
            }
            reply = await self._bus.request(subject, body, headers=headers, timeout_s=timeout_s)
            code = reply.headers.get(Header.SERVICE_ERROR_CODE)
            if code is not None:
                raise decode_error(reply.payload, code)
            answer = reply.payload
        try:
            return decoder.decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(
                ErrorKind.INTERNAL,
                "the owner of the swarm gave an answer of another shape",
                outcome=Outcome.EXECUTED,
                internal=str(error),
            ) from error
