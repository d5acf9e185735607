"""Streamable HTTP of revision 2026-07-28: every request by itself, no session.

Headers repeat what routers on the way may need: method, name, and arguments that a tool's schema
marks. A response stream that we close is a cancelled request.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping

import aiohttp
import msgspec

from mcp_proto.codec import decode_as, encode_request, pick
from mcp_proto.contracts.registry import CatalogTool
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.header_values import encode_value
from mcp_proto.jsonrpc import ErrorResponse, Message, Notification
from mcp_proto.methods import routing_member
from mcp_proto.param_headers import ParamHeader, read_annotations, written_headers
from mcp_proto.types.meta import LOG_LEVEL
from mcp_proto.versions import MODERN, is_legacy, revision_of
from tool_runner.core import dialect, log_levels
from tool_runner.core.dialect import TOKEN_KEY, Handshake, discover_params
from tool_runner.upstreams.http_answers import (
    Answered,
    Exchange,
    Stray,
    read_answer,
    read_refusal,
)
from tool_runner.upstreams.http_failures import deadline, failed, refused
from tool_runner.upstreams.http_link import HttpLink
from tool_runner.upstreams.http_notices import take_notice
from tool_runner.upstreams.upstream import Listener, Request

__all__ = ["ModernHttp"]

_log = logging.getLogger(__name__)

DISCOVER_S = 10.0
_BASE = {
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": MODERN.value,
}
_VERSION = -32022
_METHOD = -32601
_GONE_STATUSES = frozenset((400, 404, 405, 406, 415))
"""Statuses with which a server without this revision answers."""
_OLD_ERRORS = frozenset((-32600, -32000))


class _Versions(msgspec.Struct, frozen=True):
    supported: tuple[str, ...] = ()


class ModernHttp:
    """The conversation with a modern server.

    Args:
        name: server name, for errors and logs.
        link: connections.
        listener: hears of changes.
        numbers: where our ids come from.

    Attributes:
        handshake: what the server said of itself; None before ``discover``.
        doubted: set when an answer looked as if the server no longer spoke this revision.
    """

    def __init__(
        self, name: str, link: HttpLink, listener: Listener, numbers: "itertools.count[int]"
    ) -> None:
        self.handshake: Handshake | None = None
        self.doubted = asyncio.Event()
        self._name = name
        self._link = link
        self._listener = listener
        self._numbers = numbers
        self._rules: dict[str, tuple[ParamHeader, ...]] = {}

    async def discover(self) -> Handshake | None:
        """Ask who the server is; None when the answer means a server of the legacy era.

        Raises:
            MeshError: nothing about the era could be learnt (no connection, 401, 403, 5xx, no
                answer in time), or it is modern and refuses.
        """
        exchange = Exchange(next(self._numbers), "server/discover")
        message = encode_request(exchange.method, exchange.number, discover_params())
        async with deadline(self._name, exchange, DISCOVER_S):
            response = await self._link.send("POST", self._headers("server/discover"), message)
            try:
                if response.status < 300:
                    return await self._discovered(response, exchange)
                refusal = await read_refusal(response)
            finally:
                response.close()
        if refusal.error is not None and refusal.status not in {401, 403}:
            if refusal.status == 404 and refusal.error.code == _METHOD:
                return _bare_handshake()
            if dialect.proves_modern(refusal.error):
                return self._refused_version(refusal.error)
        if refusal.status in {401, 403, 408, 429} or refusal.status >= 500:
            raise refused(self._name, refusal)
        return None

    async def _discovered(
        self, response: aiohttp.ClientResponse, exchange: Exchange
    ) -> Handshake | None:
        try:
            answer = await read_answer(response, exchange, self._name, self._stray)
        except MeshError as error:
            _log.debug("server/discover: %s", error.message, extra={"server": self._name})
            return None  # unreadable: no modern server answers like that
        except (aiohttp.ClientError, OSError) as error:
            raise self._link.failure(error) from error
        if answer is None:
            return None
        if isinstance(answer, ErrorResponse):
            return (
                self._refused_version(answer.error) if dialect.proves_modern(answer.error) else None
            )
        return dialect.read_discover(answer.result)

    def _refused_version(self, error: ErrorObject) -> Handshake | None:
        """A modern server that refuses; it may serve legacy revisions beside."""
        if error.code == _VERSION:
            raw = msgspec.json.encode(error.data if isinstance(error.data, dict) else {})
            supported = decode_as(raw, _Versions).supported
            revisions = [revision_of(one) for one in supported]
            if any(one is not None and is_legacy(one) for one in revisions):
                return None
        raise failed(
            self._name,
            f"refused server/discover: {error.message[:200]}",
            Outcome.NOT_EXECUTED,
        )

    def learn_tools(self, tools: Iterable[CatalogTool]) -> tuple[CatalogTool, ...]:
        """Note which arguments go into headers; tools with an invalid annotation are dropped."""
        kept: list[CatalogTool] = []
        rules: dict[str, tuple[ParamHeader, ...]] = {}
        for tool in tools:
            found = read_annotations(tool.definition)
            if found is None:
                _log.warning(
                    "left out of the catalogue: tool %r: invalid x-mcp-header", tool.name[:64],
                    extra={"server": self._name},
                )  # fmt: skip
                continue
            kept.append(tool)
            if found:
                rules[tool.name] = found
        self._rules = rules
        return tuple(kept)

    async def call(self, request: Request) -> bytes | ErrorObject:
        """See ``Upstream.call``."""
        meta = dialect.caller_meta(request.params)
        exchange = Exchange(next(self._numbers), request.method, request)
        if request.notify is not None:
            exchange.token = meta.get(TOKEN_KEY)
            exchange.log_level = log_levels.read(meta.get(LOG_LEVEL))
        params = dialect.to_upstream_params(
            request.params,
            meta,
            modern=True,
            progress_token=exchange.number if exchange.token is not None else None,
        )
        headers = self._headers(request.method, request.params)
        async with deadline(self._name, exchange, request.timeout_s):
            answer = await self._exchange(exchange, headers, params)
        if isinstance(answer, ErrorResponse):
            return dialect.to_bus_error(
                answer.error, modern=True, method=request.method, server=self._name
            )
        return dialect.to_bus_result(answer.result, modern=True, method=request.method)

    async def ask(self, method: str, params: bytes, timeout_s: float) -> msgspec.Raw | ErrorObject:
        """Send a request of our own.

        Raises:
            MeshError: ``upstream``, ``deadline``.
        """
        exchange = Exchange(next(self._numbers), method)
        async with deadline(self._name, exchange, timeout_s):
            answer = await self._exchange(exchange, self._headers(method, params), params)
        return answer.error if isinstance(answer, ErrorResponse) else answer.result

    async def listen(
        self, params: bytes, acknowledged: Callable[[msgspec.Raw], None]
    ) -> msgspec.Raw | ErrorObject:
        """``subscriptions/listen`` until the server ends it; see ``notices.Conversation``."""
        exchange = Exchange(next(self._numbers), "subscriptions/listen")

        def stray(message: Message, _exchange: Exchange | None) -> None:
            match message:
                case Notification(method="notifications/subscriptions/acknowledged"):
                    acknowledged(message.params)
                case _:
                    self._stray(message, None)

        try:
            answer = await self._exchange(exchange, self._headers(exchange.method), params, stray)
        except MeshError as error:
            if 400 <= error.data.get("httpStatus", 0) < 500:
                raise
            # A stream that breaks or cannot be had for a moment; it is asked for again.
            _log.info("listen: %s", error.message, extra={"server": self._name})
            return msgspec.Raw(b"{}")
        return answer.error if isinstance(answer, ErrorResponse) else answer.result

    async def close(self) -> None:
        """Nothing is held at the server."""

    async def _exchange(
        self,
        exchange: Exchange,
        headers: Mapping[str, str],
        params: bytes,
        stray: Stray | None = None,
    ) -> Answered:
        message = encode_request(exchange.method, exchange.number, params)
        response = await self._link.send("POST", headers, message)
        whole = False
        try:
            if response.status < 300:
                answer = await read_answer(response, exchange, self._name, stray or self._stray)
                if answer is None:
                    raise failed(self._name, "ended its stream without an answer", Outcome.UNKNOWN)
                whole = True
                return answer
            refusal = await read_refusal(response)
        except (aiohttp.ClientError, OSError) as error:
            raise self._link.failure(error) from error
        finally:
            if whole:
                self._link.finish(response)
            else:
                # This closes the connection: so the server learns of a cancel.
                response.close()
        error = refusal.error
        if refusal.status in _GONE_STATUSES and (error is None or error.code in _OLD_ERRORS):
            self.doubted.set()
        if error is not None and refusal.status not in {401, 403}:
            return ErrorResponse(exchange.number, error)
        raise refused(self._name, refusal)

    def _headers(self, method: str, params: msgspec.Raw | bytes = b"") -> dict[str, str]:
        headers = {**_BASE, "Mcp-Method": method}
        member = routing_member(method)
        if member is None:
            return headers
        found = pick(params, member, "arguments")
        try:
            name = decode_as(found[member], str) if member in found else ""
            headers["Mcp-Name"] = encode_value(name)
            rules = self._rules.get(name) if method == "tools/call" else None
            if rules:
                headers.update(written_headers(rules, found.get("arguments", b"")))
        except ValueError:
            raise MeshError(
                ErrorKind.PARAMS, "a name or argument holds text that no header can carry"
            ) from None
        return headers

    def _stray(self, message: Message, _exchange: Exchange | None) -> None:
        # Requests of a server do not exist in this revision.
        if isinstance(message, Notification):
            take_notice(message, self._listener, self._name)


def _bare_handshake() -> Handshake:
    """A server that speaks the revision and does not say who it is."""
    nothing = msgspec.Raw(b"{}")
    return Handshake(revision=MODERN, capabilities=nothing, server_info=nothing, bare=True)
