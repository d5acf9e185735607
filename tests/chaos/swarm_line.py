"""A client of a mesh that breaks: it connects anew and asks again until there is an answer."""

import asyncio
import json
import time
from typing import Any

from tests.e2e.running_mesh import RunningMesh

__all__ = ["Line"]

CALL_S = 8.0
AGAIN_S = 0.2
PATIENCE_S = 60.0
"""How long ``Line.call`` asks again."""
_LINE_BYTES = 16 * 1024 * 1024


class Line:
    """Calls tools over TCP, one at a time."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._last = 0
        self.repeats = 0

    async def once(self, tool: str, **arguments: object) -> dict[str, Any]:
        """One answer; OSError, TimeoutError or RuntimeError (refused) otherwise."""
        try:
            async with asyncio.timeout(CALL_S):
                return await self._asked(tool, arguments)
        except (OSError, TimeoutError):
            self.close()
            raise

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """An answer, however often it has to be asked for; only for what may be repeated."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self.once(tool, **arguments)
            except (OSError, TimeoutError, RuntimeError):
                if time.monotonic() > until:
                    raise
                self.repeats += 1
                await asyncio.sleep(AGAIN_S)

    def close(self) -> None:
        """Forget the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _asked(self, tool: str, arguments: dict[str, object]) -> dict[str, Any]:
        if self._streams is None:
            host, port = self._mesh.tcp
            self._streams = await asyncio.open_connection(host, port, limit=_LINE_BYTES)
        reader, writer = self._streams
        self._last += 1
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": self._last, "method": "tools/call", "params": params}
        writer.write(json.dumps(message).encode() + b"\n")
        while True:
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("the edge has closed the connection")
            answer = json.loads(line)
            if answer.get("id") == self._last:
                break
        if "error" in answer or answer["result"].get("isError"):
            raise RuntimeError(f"{tool}: {line[:600]!r}")
        found: dict[str, Any] = answer["result"]["structuredContent"]
        return found
