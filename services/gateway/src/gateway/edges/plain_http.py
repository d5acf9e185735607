"""Plain HTTP beside MCP: `POST /tools/<tool>` for scripts, health, readiness and metrics.

Same callers, same grants, same limits as an MCP call; only the clothing differs: arguments are
the body, the tool's result is the answer, and errors have real HTTP statuses.
"""

import msgspec

from gateway.backend import HttpBackend
from gateway.config import LimitsConfig
from gateway.core import httprules
from gateway.core.requests import ModernRequest
from gateway.core.sealed_state import may_ask
from gateway.edges.exchange import Exchange, Refused
from gateway.edges.inputs import Inputs
from gateway.identity import Caller
from gateway.questions import Questions
from mcp_proto.codec import check_rim
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.convert.results import to_legacy_result
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick
from mcp_proto.request_meta import meta_of
from mcp_proto.versions import NEWEST_LEGACY
from mesh_chassis.clock import monotonic
from mesh_chassis.health import Health
from mesh_chassis.metrics import CONTENT_TYPE, Metrics

__all__ = ["PlainRoutes"]

_FORM = b"application/x-www-form-urlencoded"
"""What ``curl -d`` claims; a bearer token proves that no web page sent it."""


class PlainRoutes:
    """Serves everything that is not `/mcp`."""

    def __init__(
        self, *, backend: HttpBackend, health: Health, metrics: Metrics, limits: LimitsConfig
    ) -> None:
        self._backend = backend
        self._health = health
        self._metrics = metrics
        self._limits = limits
        self._stamp = EnvelopeStamp()
        self._inputs = Inputs(backend.dispatch, Questions(), wait_s=limits.input_s)

    async def call_tool(self, exchange: Exchange, caller: Caller) -> None:
        """`POST /tools/<tool>`: a JSON object of arguments in, the tool's result out.

        Raises:
            Refused: with the status of the error.
        """
        if exchange.method != "POST":
            error = MeshError(ErrorKind.REQUEST, "use POST")
            raise Refused(405, error, ((b"allow", b"POST"),))
        media = httprules.media_type(exchange.heads.get(b"content-type"))
        with_token = b"authorization" in exchange.heads
        if media != b"application/json" and not (with_token and media in {_FORM, b""}):
            raise Refused(
                415, MeshError(ErrorKind.REQUEST, "Content-Type must be application/json")
            )
        body = await exchange.body(self._limits.body_s)
        gate = exchange.connection.gate
        try:
            gate.pace(monotonic())
            gate.enter()
        except MeshError as error:
            raise Refused(error.http_status, error) from None
        try:
            result = await self._call(exchange.path.removeprefix("/tools/"), body, caller)
        except MeshError as error:
            raise Refused(error.http_status, error) from None
        else:
            await exchange.answer(200, result)
        finally:
            gate.leave()

    async def _call(self, tool: str, body: bytes, caller: Caller) -> bytes:
        check_rim(body)
        arguments = body.strip() or b"{}"
        try:
            pick(arguments)
        except MeshError as error:
            text = f"the body must be a JSON object of arguments: {error.message}"
            raise MeshError(error.kind, text) from None
        params = self._stamp.stamp(
            b'{"name":%b,"arguments":%b}' % (msgspec.json.encode(tool), arguments)
        )
        if not self._backend.has_tool(caller, tool):
            raise MeshError(ErrorKind.NOT_FOUND, "unknown tool")
        request = ModernRequest("tools/call", params, meta_of(params), "http")
        result = await self._backend.dispatch(request, caller)
        if may_ask(result):
            # Nobody can be asked here, but a server may want a mere repeat.
            result = await self._inputs.complete(result, request, caller, None, None)
        return to_legacy_result("tools/call", result, NEWEST_LEGACY)

    async def report(self, exchange: Exchange, *, metrics: bool) -> None:
        """`GET /health`, `/ready`, and the metrics, whose path is configured.

        Raises:
            Refused: another method.
        """
        if exchange.method not in {"GET", "HEAD"}:
            error = MeshError(ErrorKind.REQUEST, "use GET")
            raise Refused(405, error, ((b"allow", b"GET, HEAD"),))
        if metrics:
            text = self._metrics.text()
            await exchange.plain(200, text, CONTENT_TYPE.encode())
        elif exchange.path == "/ready":
            reasons = self._health.reasons()
            body = msgspec.json.encode({"ready": not reasons, "reasons": reasons})
            await exchange.answer(503 if reasons else 200, body)
        else:
            report = self._health.report()
            await exchange.answer(report.http_status, msgspec.json.encode(report))
