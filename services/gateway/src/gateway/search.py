"""Serves the three search tools: an index per view, a direct call behind ``tools_call``.

An index is made on the first search of a view and goes with it; the documents in it are shared by
all views that show the same definition. The work is done in slices, so that a first search over
2,000 tools delays no call.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable

import msgspec

from gateway.core import search_answers, search_tools
from gateway.core.access import View
from gateway.core.answers import Signature
from gateway.core.requests import ModernRequest
from gateway.core.routing import Tool
from gateway.core.search import Document, Index, document
from gateway.identity import Caller
from mcp_proto.errors import MeshError

__all__ = ["DirectCall", "ToolSearch"]

SLICE = 50
"""Definitions read before others get a turn: about 4 ms."""

Notices = Callable[[bytes], None]
DirectCall = Callable[[ModernRequest, Caller, Notices | None], Awaitable[bytes]]


class _Shown(msgspec.Struct, frozen=True):
    """What one view shows, indexed."""

    tools: tuple[Tool, ...]
    index: Index


class ToolSearch:
    """The gateway's own tools.

    Args:
        call: makes a direct ``tools/call``.
        signature: writes ``serverInfo`` into results.
    """

    def __init__(self, call: DirectCall, signature: Signature) -> None:
        self._call = call
        self._signature = signature
        self._documents: weakref.WeakValueDictionary[bytes, Document] = (
            weakref.WeakValueDictionary()
        )
        self._shown: weakref.WeakKeyDictionary[View, _Shown] = weakref.WeakKeyDictionary()

    async def serve(
        self,
        name: str,
        request: ModernRequest,
        caller: Caller,
        view: View,
        on_notice: Notices | None,
    ) -> bytes:
        """Answer a call of one of ``search_tools.NAMES``.

        Raises:
            MeshError: what the called tool raised, for ``tools_call``.
        """
        try:
            if name == search_tools.CALL:
                target, params = search_answers.call_params(request.params)
                direct = msgspec.structs.replace(request, params=params, target=target)
                return await self._call(direct, caller, on_notice)
            if name == search_tools.SEARCH:
                result = await self._find(request, view)
            else:
                result = _describe(request, view)
        except search_answers.Refused as refused:
            result = refused.result()
        return self._signature.sign(msgspec.Raw(result), search_tools.SERVER)

    async def _find(self, request: ModernRequest, view: View) -> bytes:
        query, limit, server = search_answers.search_arguments(request.params)
        shown = self._shown.get(view)
        if shown is None:
            shown = self._shown[view] = await self._indexed(view)
        tools = shown.tools
        among = [at for at, tool in enumerate(tools) if tool.server == server] if server else None
        return search_answers.found(tools, shown.index, shown.index.search(query, limit, among))

    async def _indexed(self, view: View) -> _Shown:
        tools = tuple(sorted(view.tools(), key=lambda tool: tool.listed))
        documents: list[Document] = []
        for at, tool in enumerate(tools, 1):
            known = self._documents.get(tool.entry)
            if known is None:
                known = self._documents[tool.entry] = document(tool.entry)
            documents.append(known)
            if at % SLICE == 0:
                await asyncio.sleep(0)
        return _Shown(tools, Index(documents))


def _describe(request: ModernRequest, view: View) -> bytes:
    tools: list[Tool] = []
    unknown: list[str] = []
    for name in search_answers.describe_arguments(request.params):
        try:
            tools.append(view.callable_tool(name))
        except MeshError:
            # Unknown and denied look alike: a search shows neither.
            unknown.append(name)
    return search_answers.described(tools, unknown)
