"""Results that no edge can deliver: stored per tenant, linked, and read in ranges.

The runner looks, because it knows a result's size before anybody has to carry it. What it stores
belongs to the principal that called: only its signed context reads it, and to anybody else it is
as unknown as a made-up id. Served under the server name ``results`` by every runner.
"""

import base64
import os
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from mcp_proto.asked import read_request
from mcp_proto.codec import encode_response
from mcp_proto.contracts.registry import Catalog, ServerDefinition
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.ids import HANDLE_RANDOM_BYTES, handle
from mcp_proto.members import pick
from mcp_proto.names import RESULTS_SERVER
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.clock import now_ms
from tool_runner.config import ResultsConfig
from tool_runner.core import large_results
from tool_runner.core.large_results import Part, Range, Stored
from tool_runner.drivers.objects import Described, FullError, Objects
from tool_runner.upstreams.upstream import Request

__all__ = ["Admit", "LargeResults", "Promises"]

Admit = Callable[[Call], CallerContext | None]
Promises = Callable[[str, str, str], bool]
"""(tenant, server, tool) → whether the tool has an output schema."""

PRINCIPAL, MIME_TYPE = "mesh-principal", "mesh-mime-type"
LINKABLE = frozenset(("tools/call", "prompts/get"))
"""Methods whose results have content blocks, where a link may stand."""
ANSWER_ROOM_BYTES = 4 * 1024
"""Of an answer that carries a range: everything but the range."""


class LargeResults:
    """Fits results to what edges deliver, and serves what was taken out of them.

    Args:
        bus: connected.
        config: limits.
        objects: where they are kept.
        admit: checks who calls.
        promises: which tools have an output schema.
    """

    def __init__(
        self,
        bus: Bus,
        config: ResultsConfig,
        objects: Objects,
        *,
        admit: Admit,
        promises: Promises,
    ) -> None:
        self._bus = bus
        self._config = config
        self._admit = admit
        self._promises = promises
        self._objects = objects

    async def fit_native(self, call: Call, caller: CallerContext | None, result: bytes) -> bytes:
        """``fit`` for the result of a native tool."""
        server, tool = call.subject.names
        return await self.fit(
            result,
            method="tools/call",
            tenant=call.subject.tenant,
            caller=caller,
            tool=(PLATFORM, server, tool),
        )

    async def fit_upstream(
        self, definition: ServerDefinition, request: Request, result: bytes
    ) -> bytes:
        """``fit`` for the result of an upstream server."""
        if len(result) <= self._config.inline_bytes:
            return result
        named = pick(request.params, "name").get("name", msgspec.Raw(b'""'))
        return await self.fit(
            result,
            method=request.method,
            tenant=request.tenant,
            caller=request.caller,
            tool=(definition.tenant, definition.name, msgspec.json.decode(named, type=str)),
        )

    async def fit(
        self,
        result: bytes,
        *,
        method: str,
        tenant: str,
        caller: CallerContext | None,
        tool: tuple[str, str, str],
    ) -> bytes:
        """A result as an edge can deliver it; called for large ones only.

        Args:
            result: result object.
            method: MCP method that it answers.
            tenant: whose call it was.
            caller: who may read what is stored.
            tool: owner, server and tool, for ``promises``.

        Raises:
            MeshError: ``too_large``, executed: it can neither be delivered nor stored.
        """
        if len(result) <= self._config.inline_bytes:
            return result
        plan = large_results.parts_of(method, result, self._config.inline_bytes)
        stored = {part.place: await self._store(tenant, caller, part, tool) for part in plan.parts}
        if method not in LINKABLE:
            raise self._not_linkable(result, stored)
        promised = plan.structured and self._promises(*tool)
        return large_results.fitted(method, result, plan, stored, promised=promised)

    def _not_linkable(self, result: bytes, stored: dict[int, Stored]) -> MeshError:
        """Where no link may stand (``resources/read``) the error says where the content is."""
        return large_results.too_large(
            f"the result exceeds {self._config.inline_bytes} bytes; it is stored and can be read "
            "in ranges",
            len(result),
            stored=[msgspec.to_builtins(one) for one in stored.values()],
            pieceBytes=large_results.PIECE_BYTES,
        )

    async def _store(
        self, tenant: str, caller: CallerContext | None, part: Part, tool: tuple[str, str, str]
    ) -> Stored:
        result = handle("result", now_ms(), os.urandom(HANDLE_RANDOM_BYTES))
        about = {
            PRINCIPAL: "" if caller is None else caller.sub,
            MIME_TYPE: part.mime_type,
            "mesh-origin": f"{tool[1]}:{tool[2]}"[:256],
        }
        try:
            made = await self._objects.put(
                tenant, result, part.body, ttl_s=self._config.ttl_s, about=about
            )
        except FullError as full:
            raise large_results.too_large(
                f"the result is larger than can be delivered, and this tenant's "
                f"{full.quota} bytes of storage are used up",
                len(part.body),
                quotaBytes=full.quota,
                usedBytes=full.used,
            ) from None
        except ValueError:
            raise large_results.too_large(
                "the result is larger than can be delivered, and this tenant stores none",
                len(part.body),
            ) from None
        except MeshError as error:
            error.outcome = Outcome.EXECUTED
            raise
        return Stored(
            uri=large_results.uri_of(result),
            size=made.size,
            sha256=made.sha256,
            expires=datetime.fromtimestamp(made.expires_ms // 1000, UTC).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            ),
        )

    # Reading them

    async def read(self, call: Call) -> bytes:
        """``resources/read`` of ``mesh://results/{id}{?offset,length}``.

        Raises:
            MeshError: ``not_found`` for what is unknown, expired or another principal's,
                ``params`` for a range outside, ``too_large`` for a whole that needs ranges.
        """
        protocol = call.headers.get(Header.PROTOCOL)
        asked = read_request(call.subject, call.envelope, protocol, call.payload)
        caller = self._admit(call)
        if asked.method != "resources/read":
            raise MeshError(
                ErrorKind.METHOD, f"server {RESULTS_SERVER} does not serve {asked.method}"
            )
        wanted = large_results.range_of(asked.name)
        principal = "" if caller is None else caller.sub
        found = None
        if wanted is not None:
            found = await self._objects.find(call.subject.tenant, wanted.result)
        if wanted is None or found is None or found.about.get(PRINCIPAL) != principal:
            raise MeshError(
                ErrorKind.NOT_FOUND, "unknown resource", data={"uri": asked.name[:2_048]}
            )
        contents = await self._contents(call, asked.name, wanted, found)
        ttl_ms = max(0, found.expires_ms - now_ms())
        result = COMPLETE_HEAD + b'"contents":[%b],"ttlMs":%d,"cacheScope":"private"}' % (
            contents,
            ttl_ms,
        )
        return encode_response(asked.id, result)

    async def _contents(self, call: Call, uri: str, wanted: Range, found: Described) -> bytes:
        room = self._config.inline_bytes if call.claims else self._bus.max_payload
        # Base64 makes four bytes of three.
        most = (room - ANSWER_ROOM_BYTES) // 4 * 3
        tenant = call.subject.tenant
        mime_type = found.about.get(MIME_TYPE, "application/octet-stream")
        members: dict[str, object] = {"uri": uri, "mimeType": mime_type}
        offset, length = wanted.offset, wanted.length
        if offset is None:
            if found.size > most:
                raise MeshError(
                    ErrorKind.TOO_LARGE,
                    f"the stored result has {found.size} bytes: read it in ranges of at most "
                    f"{most} with ?offset=0&length={min(most, large_results.PIECE_BYTES)}",
                    data={"uri": uri, "size": found.size, "maxLength": most},
                )
            body = await self._objects.read(tenant, found, 0, found.size)
            text = _text(body, mime_type, room)
            if text is not None:
                return msgspec.json.encode({**members, "text": text})
            offset = 0
        else:
            if offset >= found.size:
                raise MeshError(
                    ErrorKind.PARAMS,
                    f"the stored result ends at {found.size}",
                    data={"uri": uri, "size": found.size},
                )
            asked = length if length is not None else large_results.PIECE_BYTES
            body = await self._objects.read(tenant, found, offset, min(asked, most))
        members["blob"] = base64.b64encode(body).decode()
        about: dict[str, object] = {"offset": offset, "length": len(body), "size": found.size}
        end = offset + len(body)
        if end < found.size:
            about["next"] = f"{large_results.uri_of(found.name)}?offset={end}"
        members["_meta"] = {"mesh/range": about, "mesh/sha256": found.sha256}
        return msgspec.json.encode(members)

    def catalog(self, version: str) -> Catalog:
        """The catalogue entry: one resource template, no tools."""
        template = {
            "uriTemplate": large_results.TEMPLATE,
            "name": "stored-result",
            "title": "Stored result",
            "description": "A tool result that was too large to be delivered inline. With offset "
            "and length a range of its bytes, as base64.",
        }
        return Catalog(
            tenant=PLATFORM,
            server=RESULTS_SERVER,
            prefixed=False,
            resource_templates=(msgspec.Raw(msgspec.json.encode(template)),),
            capabilities=msgspec.Raw(b'{"resources":{}}'),
            server_info=msgspec.Raw(
                msgspec.json.encode({"name": f"mesh-{RESULTS_SERVER}", "version": version})
            ),
        )


def _text(body: bytes, mime_type: str, room: int) -> str | None:
    """The body as text where it is text and fits as JSON; None = as base64."""
    if not mime_type.startswith("text/") and "json" not in mime_type:
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if len(msgspec.json.encode(text)) <= room - ANSWER_ROOM_BYTES else None
