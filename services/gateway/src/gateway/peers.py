"""What gateways and runners tell each other beside calls: answers, cancels, abandoned calls.

A client's POST may reach another gateway than the one that holds its call. An answer to a question
goes to the gateway whose name stands in the question's id; a cancel goes to all of them, since
nobody writes down where a call runs. Sessions are named by the SHA-256 of their id, and cancels
travel under the platform's own tenant, which no client can hear.
"""

import logging
from collections.abc import Callable

import msgspec

from gateway.questions import Questions, instance_of, progress_of
from mcp_proto import codec, subjects
from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import MeshError
from mcp_proto.jsonrpc import ErrorResponse, Notification, RequestId, Response
from mesh_chassis.bus.connection import Bus, Msg, Subscription
from mesh_chassis.bus.endpoint import Call, Endpoint

__all__ = ["Cancel", "Peers", "abandon_parked"]

SLOTS = 64
"""Answers of other gateways taken in at once; each takes microseconds."""
FORWARD_S = 2.0
"""Bound of sending an answer on; large ones are pulled in pieces."""
CANCELS_PENDING = 1_000

_EVENT = "cancelled"
_DONE = b"{}"
_log = logging.getLogger(__name__)

Cancel = Callable[[str, RequestId], bool]
"""(session key, request id): cancel it if it runs here; False = it does not."""


class _Relayed(msgspec.Struct, frozen=True):
    """A client's message for the gateway that asked; ``session`` is the key of its session."""

    session: str
    message: msgspec.Raw


class _Cancelled(msgspec.Struct, frozen=True):
    """Which request was cancelled by its client."""

    session: str
    request: RequestId


_RELAYED = msgspec.json.Decoder(_Relayed)
_CANCELLED = msgspec.json.Decoder(_Cancelled)

Told = Response | ErrorResponse | Notification


class Peers:
    """The other gateways.

    Attributes:
        questions: what clients of this gateway were asked over HTTP.
        endpoint: takes what other gateways send on.
        cancel: set by the edge: cancels a request that runs here.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.questions = Questions(bus.instance)
        self.cancel: Cancel | None = None
        self.endpoint = Endpoint(
            bus,
            subject=subjects.instance(subjects.ANY, bus.instance, "answer"),
            handler=self._relayed,
            slots=SLOTS,
            name="answer",
        )
        self._cancels: Subscription | None = None

    async def start(self) -> None:
        """Hear of cancels.

        Raises:
            MeshError: the subscription failed.
        """
        subject = subjects.event(subjects.PLATFORM, _EVENT, subjects.ANY)
        self._cancels = await self._bus.subscribe(
            subject, self._heard_cancel, pending=CANCELS_PENDING
        )

    async def stop(self) -> None:
        """Hear no more."""
        if self._cancels is not None:
            await self._cancels.unsubscribe()

    def take(self, session: str, message: Told) -> bool:
        """Take a client's answer, or its progress, if it is for this gateway.

        What nobody waits for is dropped: the question may just have ended.

        Args:
            session: key of the session it came on.
            message: decoded.

        Returns:
            False = the question names another gateway: ``send_on``.
        """
        if _asked_by(message) not in {"", self._bus.instance}:
            return False
        if isinstance(message, Notification):
            self.questions.progress(session, progress_of(message))
        else:
            self.questions.take(session, message)
        return True

    async def send_on(self, session: str, tenant: str, message: Told, body: bytes) -> None:
        """Bring a client's answer, or its progress, to the gateway that waits for it.

        Args:
            session: key of the session it came on.
            tenant: of the caller.
            message: decoded.
            body: the same as it came.
        """
        instance = _asked_by(message)
        relayed = _Relayed(session=session, message=msgspec.Raw(body))
        try:
            await self._bus.call(
                subjects.instance(tenant, instance, "answer"),
                msgspec.json.encode(relayed),
                envelope=RequestEnvelope(request_id=self._bus.new_request_id()),
                timeout_s=FORWARD_S,
                tenant=tenant,
            )
        except MeshError as error:
            _log.info("an answer for %s is lost: %s", instance, error.message)

    async def tell_cancelled(self, session: str, request_id: RequestId) -> None:
        """A client cancelled a request that does not run here."""
        body = msgspec.json.encode(_Cancelled(session=session, request=request_id))
        subject = subjects.event(subjects.PLATFORM, _EVENT, self._bus.instance)
        try:
            await self._bus.publish(subject, body)
        except MeshError as error:
            _log.info("a cancel could not be told: %s", error.message)

    async def _relayed(self, call: Call) -> bytes:
        try:
            relayed = _RELAYED.decode(call.payload)
        except msgspec.DecodeError:
            return _DONE  # of another version; its question ends by its time
        message = codec.decode_message(bytes(relayed.message))
        if isinstance(message, Told):
            self.take(relayed.session, message)
        return _DONE

    async def _heard_cancel(self, message: Msg) -> None:
        try:
            told = _CANCELLED.decode(message.data)
        except msgspec.DecodeError:
            return
        if self.cancel is not None:
            self.cancel(told.session, told.request)


def _asked_by(message: Told) -> str:
    """The gateway that asked what this is about; "" = none that can be told from it."""
    token = progress_of(message) if isinstance(message, Notification) else message.id
    return instance_of(token)


async def abandon_parked(bus: Bus, tenant: str, instance: str, park_id: str) -> None:
    """Tell a runner that nobody will answer a parked call; without it the call ends by its TTL."""
    subject = subjects.instance(tenant, instance, "cancel")
    try:
        await bus.publish(subject, headers={Header.REQUEST: park_id})
    except MeshError as error:
        _log.info("a parked call could not be abandoned: %s", error.message)
