"""What an agent asks the mesh for, in the name of the caller it serves.

The signed context of the call travels on, so the gateway lets an agent do exactly what its
caller may do. A call that came without one (development) goes out without one.
"""

import base64
from typing import Any, cast

import msgspec

from mcp_proto import subjects
from mcp_proto.codec import encode_request
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.endpoints import EndpointEnvelope, of_server
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mesh_chassis.bus.connection import Bus
from mesh_sdk.agent.errors import ToolError
from mesh_sdk.agent.models import encode

__all__ = ["Outgoing"]

_STAMP = EnvelopeStamp()
_PAGES_MAX = 50
"""Pages of one list; a gateway gives hundreds of entries per page."""


class _Answer(msgspec.Struct, frozen=True):
    result: msgspec.Raw = msgspec.Raw(b"")
    error: ErrorObject | None = None


class _Block(msgspec.Struct, frozen=True):
    type: str
    text: str = ""


class _ToolResult(msgspec.Struct, frozen=True, rename="camel"):
    result_type: str = "complete"
    content: tuple[msgspec.Raw, ...] = ()
    structured_content: msgspec.Raw = msgspec.Raw(b"")
    is_error: bool = False


_ANSWER = msgspec.json.Decoder(_Answer)
_TOOL_RESULT = msgspec.json.Decoder(_ToolResult)
_BLOCK = msgspec.json.Decoder(_Block)


class Outgoing:
    """Requests of one call.

    Args:
        bus: the agent's connection.
        tenant: of the caller.
        context: its signed context; "" = none.
    """

    __slots__ = ("_bus", "_context", "_tenant")

    def __init__(self, bus: Bus, tenant: str, context: str) -> None:
        self._bus = bus
        self._tenant = tenant
        self._context = context

    async def request(
        self, method: str, params: dict[str, object], *, timeout_s: float, server: str = ""
    ) -> msgspec.Raw:
        """One MCP request at ``/mcp``, or at the endpoint of one server.

        Returns:
            The result.

        Raises:
            MeshError: of the gateway or the server, or how the bus failed.
        """
        bus = self._bus
        request_id = bus.new_request_id()
        body = await bus.call(
            subjects.gateway(self._tenant, method),
            encode_request(method, request_id, _STAMP.stamp(encode(params))),
            envelope=EndpointEnvelope(
                method=method,
                request_id=request_id,
                context=self._context,
                endpoint=of_server(server) if server else "",
            ),
            timeout_s=timeout_s,
            tenant=self._tenant,
        )
        try:
            answer = _ANSWER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MeshError(
                ErrorKind.UPSTREAM, "the answer cannot be read", outcome=Outcome.EXECUTED
            ) from None
        if answer.error is not None:
            raise MeshError.from_object(answer.error)
        return answer.result

    async def call_tool(
        self, server: str, tool: str, arguments: dict[str, object], *, timeout_s: float
    ) -> Any:
        """Call a tool.

        Returns:
            Its structured content; else its text; else its content blocks.

        Raises:
            ToolError: the tool reported an error.
            MeshError: as ``request``; ``capability`` when the tool asks for input, which an agent
                cannot give.
        """
        params: dict[str, object] = {"name": f"{server}:{tool}", "arguments": arguments}
        raw = await self.request("tools/call", params, timeout_s=timeout_s)
        result = _TOOL_RESULT.decode(raw)
        if result.result_type != "complete":
            raise MeshError(
                ErrorKind.CAPABILITY,
                f"{server}:{tool} asks for input, which an agent that calls it cannot give",
            )
        texts = [block.text for block in map(_BLOCK.decode, result.content) if block.text]
        if result.is_error:
            raise ToolError("\n".join(texts) or f"{server}:{tool} reported an error")
        if memoryview(result.structured_content).nbytes:
            return msgspec.json.decode(result.structured_content)
        if len(texts) == len(result.content):
            return "\n".join(texts)
        return [msgspec.json.decode(block) for block in result.content]

    async def listing(
        self, method: str, member: str, server: str, *, timeout_s: float
    ) -> list[dict[str, Any]]:
        """Every entry of a list of one server, all pages."""
        entries: list[dict[str, Any]] = []
        params: dict[str, object] = {}
        for _ in range(_PAGES_MAX):
            raw = await self.request(method, params, timeout_s=timeout_s, server=server)
            page = cast("dict[str, Any]", msgspec.json.decode(raw))
            entries += page.get(member, [])
            cursor = page.get("nextCursor")
            if not cursor:
                break
            params = {"cursor": cursor}
        return entries

    async def resource(self, server: str, name: str, *, timeout_s: float) -> Any:
        """Content of a resource by URI or by name: text, bytes, or a list where it has several.

        Raises:
            MeshError: ``not_found``, and as ``request``.
        """
        uri = name if "://" in name else await self._uri(server, name, timeout_s)
        raw = await self.request("resources/read", {"uri": uri}, timeout_s=timeout_s, server=server)
        contents = cast("list[dict[str, Any]]", msgspec.json.decode(raw).get("contents", []))
        values: list[Any] = []
        for one in contents:
            text = one.get("text")
            if text is None:
                values.append(base64.b64decode(one.get("blob", "")))
            elif str(one.get("mimeType", "")).startswith("application/json"):
                values.append(msgspec.json.decode(text))
            else:
                values.append(text)
        return values[0] if len(values) == 1 else values

    async def _uri(self, server: str, name: str, timeout_s: float) -> str:
        entries = await self.listing("resources/list", "resources", server, timeout_s=timeout_s)
        found = next((one["uri"] for one in entries if one.get("name") == name), None)
        if not isinstance(found, str):
            raise MeshError(ErrorKind.NOT_FOUND, f"{server} has no resource {name}")
        return found
