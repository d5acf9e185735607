"""One request from a caller to its answer: repeats, questions of the server, header mirrors.

Sent again is only what is proven not to have run, and only where waiting can help.
"""

import asyncio
import itertools
import logging
import random
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from mcp_proto.errors import ErrorKind, Outcome
from mcp_proto.param_headers import ParamHeader, written_headers
from mcp_proto.types.paging import INPUT_REQUIRED
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.inputs import InputRequired, Inputs
from mesh_sdk.client.requests import Asked, encoded, params_of, target_of
from mesh_sdk.client.results import decoded
from mesh_sdk.client.settings import LOGGER, ClientSettings
from mesh_sdk.client.transports.transport import Hear, Outgoing, Transport

__all__ = ["Caller"]

ROUNDS_MAX = 10
"""Times a server may ask in one call."""
STATE_WAITS_S = (0.05, 0.1, 0.25)
"""Waits where a result carries only state: the server wants to be asked again."""
WAIT_MAX_S = 60.0
_PASSING = frozenset(
    (
        ErrorKind.NO_RUNNER,
        ErrorKind.OVERLOADED,
        ErrorKind.BUS,
        ErrorKind.LOST,
        ErrorKind.UPSTREAM,
        ErrorKind.DEADLINE,
    )
)
"""Kinds that pass: a refusal for what was asked would be the same refusal again."""
_ASKS = INPUT_REQUIRED.encode()
_log = logging.getLogger(LOGGER)


class Caller:
    """Makes requests over one transport.

    Args:
        transport: the way.
        settings: repeats.
        inputs: answers questions.
    """

    def __init__(self, transport: Transport, settings: ClientSettings, inputs: Inputs) -> None:
        self._transport = transport
        self._settings = settings
        self._inputs = inputs
        self._tokens = itertools.count(1)
        self._token_head = secrets.token_hex(4)
        self.mirrored: dict[tuple[str, str], tuple[ParamHeader, ...]] = {}
        """By endpoint and tool: arguments that stand in HTTP headers too."""

    async def open(self) -> None:
        """Open the transport; an address where nobody answers yet is tried again."""
        for attempt in itertools.count():
            try:
                await self._transport.open()
            except MeshCallError as error:
                wait = self._wait_after(error, attempt)
                if wait is None:
                    raise
                await asyncio.sleep(wait)
            else:
                return

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any],
        asked: Asked,
        hear: Hear | None = None,
    ) -> msgspec.Raw:
        """One request, to its final result.

        Args:
            method: MCP method.
            params: without ``_meta``.
            asked: budget and wishes.
            hear: takes notifications.

        Raises:
            MeshCallError: the answer is an error, or there is none.
        """
        given = dict(params)
        if isinstance(given.get("arguments"), msgspec.Struct):
            given["arguments"] = msgspec.to_builtins(given["arguments"])
        waits = iter(STATE_WAITS_S)
        for _ in range(ROUNDS_MAX + 1):
            result = await self.send(method, given, asked, hear)
            if _ASKS not in bytes(result) or _type_of(result) != INPUT_REQUIRED:
                return result
            needed: InputRequired = decoded(result, InputRequired)
            given.pop("inputResponses", None)
            given.pop("requestState", None)
            if needed.input_requests:
                given["inputResponses"] = await self._inputs.answers(needed.input_requests)
            else:
                await asyncio.sleep(next(waits, STATE_WAITS_S[-1]))
            if bytes(needed.request_state):
                given["requestState"] = needed.request_state
        raise MeshCallError(
            ErrorKind.UPSTREAM,
            f"the server asked more than {ROUNDS_MAX} times",
            outcome=Outcome.UNKNOWN,
        )

    async def send(
        self,
        method: str,
        params: Mapping[str, Any],
        asked: Asked,
        hear: Hear | None = None,
        *,
        listens: bool = False,
    ) -> msgspec.Raw:
        """One request and its repeats, to whatever it answers.

        Raises:
            MeshCallError: as ``ask``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + asked.timeout_s
        token = f"{self._token_head}-{next(self._tokens)}" if asked.progress else ""
        name = target_of(method, params)
        request = Outgoing(
            method=method,
            params=params_of(params, asked, self._inputs.capabilities, token),
            timeout_s=asked.timeout_s,
            name=name,
            endpoint=asked.endpoint,
            headers=self._mirrors(method, name, params, asked.endpoint),
            token=token,
            hears_log=bool(asked.log_level),
            listens=listens,
        )
        for attempt in itertools.count():
            left = until - loop.time()
            try:
                return await self._transport.send(
                    msgspec.structs.replace(request, timeout_s=max(0.001, left)), hear
                )
            except MeshCallError as error:
                wait = self._wait_after(error, attempt)
                if wait is None or loop.time() + wait >= until:
                    raise
                _log.debug("%s is repeated in %.3f s: %s", method, wait, error)
            await asyncio.sleep(wait)
        raise AssertionError

    def _wait_after(self, error: MeshCallError, attempt: int) -> float | None:
        """Seconds before the next attempt; None = it is not repeated."""
        settings = self._settings
        if attempt >= settings.retry_attempts or error.outcome is not Outcome.NOT_EXECUTED:
            return None
        if error.kind not in _PASSING:
            return None
        wait = settings.retry_delay_s * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        if error.retry_after_s is not None:
            if error.retry_after_s > WAIT_MAX_S:
                return None
            wait = max(wait, error.retry_after_s)
        return min(wait, WAIT_MAX_S)

    def _mirrors(
        self, method: str, name: str, params: Mapping[str, Any], endpoint: str
    ) -> tuple[tuple[str, str], ...]:
        if method != "tools/call":
            return ()
        rules = self.mirrored.get((endpoint, name))
        if not rules:
            return ()
        try:
            return tuple(written_headers(rules, encoded(params.get("arguments", {}))))
        except ValueError:
            raise MeshCallError(
                ErrorKind.PARAMS, "an argument holds text that no header can carry"
            ) from None


class _Typed(msgspec.Struct):
    result_type: str = msgspec.field(name="resultType", default="")


def _type_of(result: msgspec.Raw) -> str:
    return decoded(result, _Typed).result_type
