"""A client of the old eras over HTTP that speaks raw messages, at one gateway or several."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec

__all__ = ["EVERYTHING", "Events", "Session"]

JSON_HEADERS = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
}
EVERYTHING = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}
"""Every capability to be asked."""


class Session:
    """A session; ``at`` continues it elsewhere."""

    def __init__(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.client = client
        self.headers = headers

    @classmethod
    async def open(
        cls,
        client: httpx.AsyncClient,
        revision: str = "2025-11-25",
        can: object = None,
        **headers: str,
    ) -> "Session":
        session = cls(client, {**JSON_HEADERS, **headers})
        params = {
            "protocolVersion": revision,
            "capabilities": EVERYTHING if can is None else can,
            "clientInfo": {"name": "c", "version": "1"},
        }
        answer = await session.post({"id": 0, "method": "initialize", "params": params})
        session.headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        return session

    def at(self, client: httpx.AsyncClient) -> "Session":
        """The same session, over another connection."""
        return Session(client, self.headers)

    async def post(self, message: dict[str, object]) -> httpx.Response:
        return await self.client.post(
            "/mcp", json={"jsonrpc": "2.0", **message}, headers=self.headers
        )

    @contextlib.asynccontextmanager
    async def call(self, name: str, request_id: int = 1, **headers: str) -> AsyncIterator["Events"]:
        params = {"name": name, "arguments": {}}
        body = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        sent = {**self.headers, **headers}
        async with self.client.stream("POST", "/mcp", json=body, headers=sent) as response:
            yield Events(response)

    async def ask(self, name: str, **headers: str) -> Any:
        """One call that ends without a question."""
        async with self.call(name, **headers) as events:
            return await events.last()


class Events:
    """Messages of one answer, JSON or stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.stream = response.headers["content-type"] == "text/event-stream"
        self._lines = response.aiter_lines()

    async def next(self) -> Any:
        if not self.stream:
            return msgspec.json.decode(await self.response.aread())
        async with asyncio.timeout(5):
            async for line in self._lines:
                if line.startswith("data: "):
                    return msgspec.json.decode(line[6:])
        return None

    async def last(self) -> Any:
        """The response of the call; whatever else comes is skipped."""
        while (message := await self.next()) is not None:
            if "method" not in message:
                return message
        return None
