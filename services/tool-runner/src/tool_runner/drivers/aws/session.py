"""One connection to AWS: clients made when first needed, attempts counted, failures translated.

The client library repeats nothing itself. Whether a request may be repeated depends on what it
does, and whether its failure leaves the outcome open depends on every attempt, so both are
decided here, where both are known.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import msgspec
from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.clock import monotonic
from mesh_chassis.config import ConfigError
from tool_runner.config import AwsConfig
from tool_runner.drivers.aws.faults import Effect, Fault, RefusedError, judge

__all__ = ["Aws"]

T = TypeVar("T")

ATTEMPTS_MAX = 4
PAUSE_S, PAUSE_MAX_S = 0.05, 1.0
"""Between attempts: doubling, of which a random part is waited."""
FORGET_S = 5.0
"""Credentials that do not work are looked up anew at most this often; a look may take seconds."""
_KEEP_ALIVE_S = 12.0

_log = logging.getLogger(__name__)

_FAILURES = (BotoCoreError, ClientError, OSError, TimeoutError)


class _Client(msgspec.Struct, frozen=True, kw_only=True):
    calls: AioBaseClient
    stack: AsyncExitStack
    made: float


class Aws:
    """Clients of one region and identity. ``close`` ends them.

    Args:
        config: of the operator.

    Raises:
        ConfigError: no region, or a profile that does not exist.
    """

    def __init__(self, config: AwsConfig) -> None:
        self.config = config
        self._session = _session()
        self.region = config.region or self._found_region()
        if not self.region:
            raise ConfigError(
                "", "storage.aws.region", "no AWS region: set it here or in AWS_REGION"
            )
        self._clients: dict[str, _Client] = {}
        self._retired: list[_Client] = []
        self._making = asyncio.Lock()
        self._closed = False

    async def call(
        self,
        service: str,
        operation: str,
        arguments: Mapping[str, object],
        *,
        effect: Effect,
        expected: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Send one request.

        Args:
            service: key of ``faults.SERVICES``.
            operation: method of the client.
            arguments: of AWS, under its names.
            effect: of doing it twice.
            expected: error codes that are an answer here.

        Returns:
            The answer of AWS.

        Raises:
            RefusedError: with one of ``expected``.
            MeshError: ``upstream``, ``overloaded``, ``too_large``; the outcome tells whether it may
                have been done.
        """

        async def attempt(client: AioBaseClient) -> dict[str, Any]:
            return await getattr(client, operation)(**arguments)

        return await self.run(service, attempt, effect=effect, expected=expected)

    async def run(
        self,
        service: str,
        attempt: Callable[[AioBaseClient], Awaitable[T]],
        *,
        effect: Effect,
        expected: tuple[str, ...] = (),
    ) -> T:
        """The same for what is more than one request, such as one whose body is then read."""
        progress = _Progress(service, effect, expected)
        try:
            async with asyncio.timeout(self.config.call_s):
                while True:
                    try:
                        client = await self._client(service)
                        progress.sent = True
                        return await attempt(client)
                    except _FAILURES as error:
                        await self._failed(service, error, progress)
        except TimeoutError:
            text = f"did not answer within {self.config.call_s:g} s"
            fault = Fault(kind=ErrorKind.UPSTREAM, text=text)
            done = progress.done or progress.sent
            raise fault.error(service, effect, done=done) from None

    async def close(self) -> None:
        """End every connection."""
        self._closed = True
        clients = [*self._clients.values(), *self._retired]
        self._clients, self._retired = {}, []
        for client in clients:
            await client.stack.aclose()

    async def _failed(self, service: str, error: Exception, progress: "_Progress") -> None:
        """Return when another attempt shall be made; raise what the failure means otherwise."""
        fault = progress.judge(error)
        if fault.credential:
            client = self._clients.get(service)
            if client is not None and monotonic() - client.made > FORGET_S:
                self._session = _session()
                await self._retire(service)
        if not progress.again(fault):
            raise fault.error(
                service, progress.effect, done=progress.done, internal=f"{error}"
            ) from None
        _log.info("AWS %s is asked again: %s", service, error)
        pause = min(PAUSE_S * 2**progress.attempts, PAUSE_MAX_S)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    async def _client(self, service: str) -> AioBaseClient:
        known = self._clients.get(service)
        if known is None:
            async with self._making:
                known = self._clients.get(service) or await self._make(service)
        return known.calls

    async def _make(self, service: str) -> _Client:
        if self._closed:
            raise MeshError(ErrorKind.UPSTREAM, "the connection to AWS is closed")
        config = self.config
        stack = AsyncExitStack()
        client: AioBaseClient = await stack.enter_async_context(
            self._session.create_client(
                service,
                region_name=self.region,
                endpoint_url=config.endpoint_url or None,
                config=AioConfig(
                    connect_timeout=config.connect_s,
                    read_timeout=config.answer_s,
                    max_pool_connections=config.connections,
                    retries={"mode": "standard", "total_max_attempts": 1},
                    s3={"addressing_style": "path" if config.endpoint_url else "auto"},
                    # Bodies are read in ranges, for which S3 has no checksums; ours is the digest.
                    response_checksum_validation="when_required",
                    user_agent_extra="mcp-mesh",
                    connector_args={"keepalive_timeout": _KEEP_ALIVE_S},
                ),
            )
        )
        made = self._clients[service] = _Client(calls=client, stack=stack, made=monotonic())
        return made

    async def _retire(self, service: str) -> None:
        """Make the next request look for credentials; requests under way end as they may."""
        self._retired.append(self._clients.pop(service))
        unused = monotonic() - self.config.call_s - FORGET_S
        old = [client for client in self._retired if client.made < unused]
        self._retired = [client for client in self._retired if client.made >= unused]
        for client in old[:-1]:
            await client.stack.aclose()
        self._retired += old[-1:]

    def _found_region(self) -> str:
        try:
            return str(self._session.get_config_variable("region") or "")
        except BotoCoreError as error:
            raise ConfigError("", "storage.aws.region", f"AWS configuration: {error}") from None


_models = create_loader()
"""Descriptions of the services: read and prepared once per process, 30 to 100 ms each."""


_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""The library itself knows the second only; every other AWS program knows the first."""


def _session() -> AioSession:
    session = AioSession(session_vars={"region": ("region", list(_REGION_VARIABLES), None, None)})
    session.register_component("data_loader", _models)
    return session


class _Progress:
    """The attempts of one request."""

    def __init__(self, service: str, effect: Effect, expected: tuple[str, ...]) -> None:
        self.service = service
        self.effect = effect
        self.expected = expected
        self.attempts = 0
        self.sent = False
        self.done = False
        """Any of the failed attempts may have been executed."""

    def judge(self, error: Exception) -> Fault:
        """Count a failed attempt.

        Raises:
            RefusedError: it is an answer that is expected.
        """
        if isinstance(error, ClientError):
            response: Mapping[str, Any] = error.response
            code = str(response.get("Error", {}).get("Code", ""))
            if code in self.expected:
                raise RefusedError(code, response, repeated=self.done) from None
        fault = judge(error)
        self.attempts += 1
        self.sent = False
        self.done = self.done or fault.done
        return fault

    def again(self, fault: Fault) -> bool:
        """Whether another attempt is to be made."""
        if not fault.again or self.attempts >= ATTEMPTS_MAX:
            return False
        return not (fault.done and self.effect is Effect.ONCE)
