"""Resources of native toolsets: read in this process, watched through the contract of ADR 0017."""

import asyncio

import msgspec

from mcp_proto.asked import Asked
from mcp_proto.codec import encode_response
from mcp_proto.contracts import watching
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.limits import INLINE_MAX_BYTES, RESULT_BYTES_MAX
from mesh_chassis.bus.endpoint import Call, LargeBody
from tool_runner.toolsets.toolset import Resources

__all__ = ["NATIVE_RESOURCE_METHODS", "answer_resource"]

READ = "resources/read"
NATIVE_RESOURCE_METHODS = frozenset((READ, watching.SUBSCRIBE, watching.UNSUBSCRIBE))

_encode = msgspec.json.Encoder().encode
_HERE = b"\0"
"""No JSON text holds this byte."""


async def answer_resource(
    resources: Resources, call: Call, asked: Asked, caller: CallerContext | None
) -> bytes | LargeBody:
    """The response to one of ``NATIVE_RESOURCE_METHODS``.

    Raises:
        MeshError: ``params``, and what the resources say.
    """
    tenant = call.subject.tenant
    if asked.method == READ:
        room = RESULT_BYTES_MAX if call.claims else call.room
        contents = await resources.read(tenant, asked.name, room)
        # It may change at any moment, and who watches it is told.
        tail = b'],"ttlMs":0,"cacheScope":"private"}'
        if not isinstance(contents, bytes):
            frame = encode_response(
                asked.id, b"".join((COMPLETE_HEAD, b'"contents":[', _HERE, tail))
            )
            before, _, after = frame.partition(_HERE)
            return contents.within(before, after)
        if len(contents) > INLINE_MAX_BYTES:
            await asyncio.sleep(0)  # small calls go between two passes over a large body
        return encode_response(asked.id, b"".join((COMPLETE_HEAD, b'"contents":[', contents, tail)))
    wish = watching.read_asked(asked.params, "" if caller is None else caller.sub)
    refused: dict[str, str] = {}
    fresh: list[str] = []
    for uri in wish.uris:
        if asked.method == watching.UNSUBSCRIBE:
            resources.unwatch(tenant, uri, wish.subscriber)
            continue
        watched = await resources.watch(tenant, uri, wish.subscriber)
        if watched.refused:
            refused[uri] = watched.refused
        elif watched.fresh:
            fresh.append(uri)
    verdict = watching.Verdict(refused=refused, fresh=tuple(fresh))
    return encode_response(asked.id, _encode(verdict))
