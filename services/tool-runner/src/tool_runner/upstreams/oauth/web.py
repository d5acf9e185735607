"""Requests to authorization servers: over the server's own guarded link, bounded, never followed.

They carry no header and no credential of the definition.
"""

import asyncio
from collections.abc import Mapping

import aiohttp
import msgspec
from yarl import URL

from mcp_proto.errors import MeshError, Outcome
from tool_runner.core.authorization import FlowError
from tool_runner.upstreams.http_link import HttpLink, read_body

__all__ = ["ANSWER_BYTES_MAX", "Fetched", "Web"]

ANSWER_BYTES_MAX = 64 * 1024
"""Of metadata, registrations and tokens."""
FETCH_S = 10.0
"""Longest single request."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """One answer; ``location`` of a redirect, else ""."""

    status: int
    body: bytes = b""
    location: str = ""


class Web:
    """Requests of one server's authorization.

    Args:
        link: of the server.
    """

    def __init__(self, link: HttpLink) -> None:
        self._link = link

    @property
    def server_url(self) -> str:
        """Canonical URI of the MCP server: no query, no fragment."""
        return str(self._link.url.with_query(None).with_fragment(None))

    async def get(self, url: str, *, accept: str = "application/json") -> Fetched:
        """Fetch a document.

        Raises:
            FlowError: there is no answer, or one that is too long.
        """
        return await self._ask("GET", url, {"Accept": accept}, None)

    async def post(
        self,
        url: str,
        body: bytes,
        kind: str,
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> Fetched:
        """Send a form or a document; ``repeatable``: a broken connection may be tried once more.

        Raises:
            FlowError: there is no answer, or one that is too long.
        """
        given = {"Content-Type": kind, "Accept": "application/json", **(headers or {})}
        return await self._ask("POST", url, given, body, repeatable=repeatable)

    async def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        repeatable: bool = True,
    ) -> Fetched:
        try:
            async with asyncio.timeout(FETCH_S):
                try:
                    return await self._once(method, url, headers, body)
                except (MeshError, aiohttp.ClientError, OSError) as error:
                    # A kept connection may just have been closed.
                    reached = not isinstance(error, MeshError) or (
                        error.outcome is not Outcome.NOT_EXECUTED
                    )
                    if not repeatable or not reached:
                        raise
                    return await self._once(method, url, headers, body)
        except TimeoutError:
            raise FlowError("did not answer in time") from None
        except MeshError as error:
            raise FlowError(f"failed: {error.message}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise FlowError(f"broke off ({type(error).__name__})") from None

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Fetched:
        try:
            target = URL(url, encoded=True)
        except ValueError:
            target = None
        if target is None or not url.isascii() or not url.isprintable() or " " in url:
            raise FlowError("names a malformed address")
        response = await self._link.send_bare(target, headers, body, method=method)
        try:
            status, location = response.status, response.headers.get("Location", "")
            if 300 <= status < 400:
                return Fetched(status=status, location=location)
            read = await read_body(response, ANSWER_BYTES_MAX)
        finally:
            response.close()
        if read is None:
            raise FlowError(f"answered with more than {ANSWER_BYTES_MAX // 1024} KiB")
        return Fetched(status=status, body=read)
