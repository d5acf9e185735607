"""Questions to the verifier over HTTP: one pool of warm connections, everything bounded.

Apart from ``verifier`` so that a gateway without one does not load an HTTP client.
"""

import asyncio
import ssl

import aiohttp

from gateway.config import VerifierConfig
from gateway.verifier import UnansweredError, WrongAnswerError
from mesh_chassis.config import ConfigError
from mesh_chassis.secret_references import secret_of

__all__ = ["HttpVerifier"]

ANSWER_BYTES_MAX = 16 * 1024
"""Largest answer that is read."""

CONNECTIONS_MAX = 64
"""Connections to the verifier; a question beyond them waits within its time."""

KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close an idle connection."""


class HttpVerifier:
    """The verifier behind a URL. Made once; ``close`` once.

    Args:
        config: section ``[verifier]``, checked.

    Raises:
        ConfigError: the key or the certificates cannot be read.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "mcp-mesh",
        }
        if config.api_key:
            self._headers["Authorization"] = (
                f"Bearer {secret_of(config.api_key, 'verifier.api_key')}"
            )
        self._tls = _tls(config.tls_ca_file)
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, question: bytes) -> bytes:
        """One question, one answer.

        Raises:
            UnansweredError: too late, out of reach, status 429 or 5xx.
            WrongAnswerError: any other status than 200, or an answer that is too large.
        """
        try:
            async with asyncio.timeout(self._config.timeout_s):
                try:
                    return await self._once(question)
                except aiohttp.ServerDisconnectedError:
                    # An idle connection that ended as it was used again; asking twice is harmless.
                    return await self._once(question)
        except TimeoutError:
            raise UnansweredError(f"no answer within {self._config.timeout_s:g} s") from None
        except aiohttp.ClientResponseError as error:
            raise WrongAnswerError(type(error).__name__) from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnansweredError(type(error).__name__) from None

    async def _once(self, question: bytes) -> bytes:
        async with self._opened().post(
            self._config.url, data=question, headers=self._headers, allow_redirects=False
        ) as response:
            status = response.status
            if status == 429 or status >= 500:
                raise UnansweredError(f"status {status}")
            if status != 200:
                raise WrongAnswerError(f"status {status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    response.close()
                    raise WrongAnswerError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
            return bytes(body)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_S, ssl=self._tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()


def _tls(ca_file: str) -> ssl.SSLContext | bool:
    if not ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("", "verifier.tls_ca_file", str(error)) from None
