"""JSON over HTTP to one of several equal addresses, every failure told as ``upstream``."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.config import ConfigError
from mesh_chassis.secret_references import secret_of

__all__ = ["Answer", "Web", "refused", "secret"]

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Largest answer that is read."""
CONNECT_S = 5.0
_TEXT_MAX = 200


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Status, headers in lower case, and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def refused(what: str, text: str) -> MeshError:
    """The error of a driver: what was asked, and what is wrong."""
    return MeshError(ErrorKind.UPSTREAM, f"{what}: {text}", data={"upstream": what})


def secret(reference: str, key: str) -> str:
    """The secret behind ``env:NAME`` or ``file:PATH``; "" for no reference.

    Raises:
        MeshError: ``upstream``: it is not there. Its value is never shown.
    """
    try:
        return secret_of(reference, key)
    except ConfigError as error:
        raise refused(key, error.reason) from None


class Web:
    """Requests to one of several equal addresses: the next one once the present one fails.

    Args:
        what: name of the other side, for errors.
        urls: ``http://HOST:PORT``, without a path.
        tls_ca_file: authorities trusted for https; "" = the system's.
    """

    def __init__(self, what: str, urls: tuple[str, ...], *, tls_ca_file: str = "") -> None:
        self._what = what
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._ca = tls_ca_file
        self._at = 0
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        """One request and its whole answer, whatever its status.

        Raises:
            MeshError: ``upstream``: no answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                async with self.open(method, path, body=body, headers=headers) as response:
                    data = bytearray()
                    async for chunk in response.content.iter_any():
                        data += chunk
                        if len(data) > ANSWER_BYTES_MAX:
                            limit = f"its answer is larger than {ANSWER_BYTES_MAX} bytes"
                            raise refused(self._what, limit)
                    names = {name.lower(): value for name, value in response.headers.items()}
                    return Answer(status=response.status, headers=names, body=bytes(data))
        except TimeoutError:
            self._at += 1
            raise refused(self._what, f"no answer in {timeout_s:g} s from {self._url}") from None

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """A request whose answer is read as it comes.

        Raises:
            MeshError: ``upstream``: no connection, or it broke.
        """
        url = self._url
        try:
            async with self._opened().request(
                method, url + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            self._at += 1
            said = str(error)[:_TEXT_MAX] or type(error).__name__
            raise refused(self._what, f"{url} cannot be reached: {said}") from None

    async def close(self) -> None:
        """End all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def _url(self) -> str:
        return self._urls[self._at % len(self._urls)]

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            context: ssl.SSLContext | bool = True
            if self._ca:
                try:
                    context = ssl.create_default_context(cafile=self._ca)
                except OSError as error:
                    raise refused(self._what, f"tls_ca_file: {error.strerror}") from None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=16),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                trust_env=False,
            )
        return self._session
