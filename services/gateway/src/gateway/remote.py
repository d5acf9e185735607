"""The backend of an edge that is no gateway: everything is asked of one over the bus.

The credential travels in a header of each request and is checked there; nothing is decided here.
Any gateway answers any request, so one may die between two of them. The stream of changed lists
is asked for again whenever it ends, and what may have been missed meanwhile is told.
"""

import asyncio
import logging
import random

import msgspec

from gateway.backend import Changed, Stop
from gateway.core.answers import result_of
from gateway.core.merge import ListKind
from gateway.core.requests import ModernRequest
from gateway.handlers import Notices
from gateway.identity import Caller
from mcp_proto import subjects
from mcp_proto.codec import encode_request
from mcp_proto.contracts.tenant_auth import Grant, Identity
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import CALL_TIMEOUT_MAX_S, CALL_TIMEOUT_S
from mesh_chassis.bus.connection import Bus
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["RemoteBackend"]

AGAIN_S = (0.2, 1.0)
"""Wait before a lost stream of changed lists is asked for again."""
REFUSED_S = 10.0
"""The same after a refusal of the credential."""
_REFUSED = frozenset({ErrorKind.UNAUTHENTICATED, ErrorKind.DENIED})
_LISTEN = "subscriptions/listen"
_KINDS = {
    "notifications/tools/list_changed": frozenset({ListKind.TOOLS}),
    "notifications/prompts/list_changed": frozenset({ListKind.PROMPTS}),
    "notifications/resources/list_changed": frozenset({ListKind.RESOURCES, ListKind.TEMPLATES}),
}
_log = logging.getLogger(__name__)


class _Envelope(RequestEnvelope, frozen=True, kw_only=True):
    """Headers with the credential of the client beside them."""

    credential: str = ""

    def to_headers(self) -> dict[str, str]:
        headers = RequestEnvelope.to_headers(self)
        if self.credential:
            headers[Header.CREDENTIAL] = self.credential
        return headers

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "_Envelope(…)"


class _Notice(msgspec.Struct):
    method: str = ""


_NOTICE = msgspec.json.Decoder(_Notice)


class RemoteBackend:
    """Asks gateways of one tenant.

    Args:
        bus: connected under the rights of a stdio edge.
        tenant: tenant of the subjects.
        credential: key or token; "" = the demo principal, where there is one.
        tasks: parent of the streams of changed lists.
        timeout_s: budget of a request, in seconds.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        tenant: str,
        credential: str,
        tasks: Tasks,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._bus = bus
        self._tenant = tenant
        self._credential = credential
        self._tasks = tasks
        self._timeout_s = timeout_s
        # Who this is, the gateway knows; here it only stands for "the one client of this pipe".
        unknown = Identity(
            tenant=tenant, principal="", roles=(), grant=Grant(), credential_id="remote"
        )
        self._caller = Caller(unknown, sign=lambda _: "", issuer="")

    def known(self, credential: str, tenant: str = "") -> Caller | None:
        """The client of this process."""
        del credential, tenant
        return self._caller

    async def caller(self, credential: str, tenant: str = "") -> Caller:
        """The client of this process."""
        del credential, tenant
        return self._caller

    async def dispatch(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None = None
    ) -> bytes:
        """The result object, from whichever gateway takes the request.

        Raises:
            MeshError: of the gateway, or of the bus.
        """
        del caller
        params = request.params
        if request.method == "server/discover" and not request.meta.protocol_version:
            params = EnvelopeStamp().stamp(params)
        timeout_s = request.timeout_s or self._timeout_s
        return bytes(await self._ask(request.method, params, on_notice, timeout_s))

    async def _ask(
        self,
        method: str,
        params: bytes | msgspec.Raw,
        on_notice: Notices | None,
        timeout_s: float,
    ) -> msgspec.Raw:
        request_id = self._bus.new_request_id()
        body = await self._bus.call(
            subjects.gateway(self._tenant, method),
            encode_request(method, request_id, params),
            envelope=_Envelope(method=method, request_id=request_id, credential=self._credential),
            timeout_s=timeout_s,
            tenant=self._tenant,
            on_frame=on_notice,
        )
        return result_of(body, "gateway")

    def listen(self, caller: Caller, changed: Changed) -> Stop:
        """Tell ``changed`` when lists change.

        Raises:
            MeshError: ``overloaded``.
        """
        del caller
        try:
            task = self._tasks.spawn(self._follow(changed), name="listen")
        except TasksFullError:
            raise MeshError(ErrorKind.OVERLOADED, "too many listeners", retry_after_s=5.0) from None
        return task.cancel

    async def _follow(self, changed: Changed) -> None:
        wanted = dict.fromkeys(
            ("toolsListChanged", "promptsListChanged", "resourcesListChanged"), True
        )
        params = EnvelopeStamp().stamp(msgspec.json.encode({"notifications": wanted}))

        def on_notice(notice: bytes) -> None:
            kinds = _KINDS.get(_NOTICE.decode(notice).method)
            if kinds is not None:
                changed(kinds)

        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._ask(_LISTEN, params, on_notice, CALL_TIMEOUT_MAX_S)
            except MeshError as error:
                _log.info("the stream of changed lists was lost: %s", error.message)
                if error.kind in _REFUSED:
                    # Nothing was missed that this caller may see; its credential has to change.
                    await asyncio.sleep(REFUSED_S)
                    continue
            if loop.time() - began < CALL_TIMEOUT_MAX_S / 2:
                # Not the usual end: a gateway stopped or died, and something may be missed.
                await asyncio.sleep(random.uniform(*AGAIN_S))  # noqa: S311 - spreads load
                changed(frozenset(ListKind))
