"""The backend of an edge that is no gateway: everything is asked of one over the bus.

The credential travels in a header of each request and is checked there; nothing is decided here.
Any gateway answers any request, so one may die between two of them. The stream of changed lists
is asked for again whenever it ends, and what may have been missed meanwhile is told.
"""

import logging

import msgspec

from gateway.backend import Changed, Stop
from gateway.core.answers import result_of
from gateway.core.merge import ListKind
from gateway.core.requests import ModernRequest
from gateway.handlers import Notices
from gateway.identity import Caller
from gateway.remote_watch import Listen, RemoteListen, RemoteWatch
from gateway.subscriptions import Told
from mcp_proto import subjects
from mcp_proto.codec import encode_request
from mcp_proto.contracts.tenant_auth import Grant, Identity
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.endpoints import EndpointEnvelope
from mcp_proto.envelope import Header
from mcp_proto.limits import CALL_TIMEOUT_MAX_S, CALL_TIMEOUT_S
from mesh_chassis.bus.connection import Bus
from mesh_chassis.tasks import Tasks

__all__ = ["RemoteBackend"]

_LISTEN = "subscriptions/listen"
_LIST_FILTERS = ("toolsListChanged", "promptsListChanged", "resourcesListChanged")
_KINDS = {
    "notifications/tools/list_changed": frozenset({ListKind.TOOLS}),
    "notifications/prompts/list_changed": frozenset({ListKind.PROMPTS}),
    "notifications/resources/list_changed": frozenset({ListKind.RESOURCES, ListKind.TEMPLATES}),
}
_log = logging.getLogger(__name__)


class _Envelope(EndpointEnvelope, frozen=True, kw_only=True):
    """Headers with the credential of the client and its endpoint beside them."""

    credential: str = ""

    def to_headers(self) -> dict[str, str]:
        headers = EndpointEnvelope.to_headers(self)
        if self.credential:
            headers[Header.CREDENTIAL] = self.credential
        return headers

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "_Envelope(…)"


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
        endpoint = request.endpoint
        return bytes(await self._ask(request.method, params, on_notice, timeout_s, endpoint))

    async def _ask(
        self,
        method: str,
        params: bytes | msgspec.Raw,
        on_notice: Notices | None,
        timeout_s: float,
        endpoint: str,
    ) -> msgspec.Raw:
        request_id = self._bus.new_request_id()
        body = await self._bus.call(
            subjects.gateway(self._tenant, method),
            encode_request(method, request_id, params),
            envelope=_Envelope(
                method=method,
                request_id=request_id,
                credential=self._credential,
                endpoint=endpoint,
            ),
            timeout_s=timeout_s,
            tenant=self._tenant,
            on_frame=on_notice,
        )
        return result_of(body, "gateway")

    def listen(self, caller: Caller, changed: Changed, endpoint: str = "") -> Stop:
        """Tell ``changed`` when lists change.

        Raises:
            MeshError: ``overloaded``.
        """
        del caller

        def noticed(method: str, _uri: str) -> None:
            kinds = _KINDS.get(method)
            if kinds is not None:
                changed(kinds)

        def missed(_uris: frozenset[str]) -> None:
            changed(frozenset(ListKind))

        made = RemoteListen(
            self._listen_at(endpoint), noticed, missed, self._tasks, lists=_LIST_FILTERS
        )
        made.open()
        return made.close

    def watch(self, caller: Caller, told: Told, endpoint: str = "") -> RemoteWatch:
        """Tell ``told`` the URIs of updated resources, once it aims at some."""
        del caller
        return RemoteWatch(self._listen_at(endpoint), told, self._tasks)

    def _listen_at(self, endpoint: str) -> Listen:
        async def listen(params: bytes, on_notice: Notices) -> None:
            await self._ask(_LISTEN, params, on_notice, CALL_TIMEOUT_MAX_S, endpoint)

        return listen
