"""A client from its opening to its end: one transport, one parent for what runs beside calls."""

from types import TracebackType
from typing import Any, Self

import msgspec

from mcp_proto.errors import ErrorKind, Outcome
from mcp_proto.limits import CALL_TIMEOUT_S
from mesh_chassis.tasks import Tasks
from mesh_sdk.client.caller import Caller
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.inputs import Inputs, OnElicit, OnSample, Roots
from mesh_sdk.client.requests import Asked
from mesh_sdk.client.results import decoded
from mesh_sdk.client.settings import ClientSettings
from mesh_sdk.client.transports.chosen import chosen_transport
from mesh_sdk.client.transports.transport import Transport

__all__ = ["Opened"]

PAGES_MAX = 100
STREAMS_MAX = 256
"""Streams and subscriptions of one client."""


class Opened:
    """What all methods of a client stand on. Arguments: see ``Client``."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        tenant: str = "",
        timeout_s: float = CALL_TIMEOUT_S,
        on_elicit: OnElicit | None = None,
        on_sample: OnSample | None = None,
        roots: Roots | None = None,
        settings: ClientSettings | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.settings = settings or ClientSettings.from_env()
        self.timeout_s = timeout_s
        self._url = url or ""
        self._key = key or ""
        self._tenant = tenant
        self._inputs = Inputs(on_elicit, on_sample, roots)
        self._transport = transport
        self._caller: Caller | None = None
        self._tasks = Tasks("mesh client", tasks_max=STREAMS_MAX)

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect; ``async with`` does it.

        Raises:
            MeshCallError: nobody answers there, or the credential is refused.
        """
        if self._caller is not None:
            return
        self.settings.apply_logging()
        transport = self._transport or chosen_transport(
            self._url, key=self._key, tenant=self._tenant, settings=self.settings
        )
        caller = Caller(transport, self.settings, self._inputs)
        try:
            await caller.open()
            await caller.send("server/discover", {}, Asked(timeout_s=self.timeout_s))
        except BaseException:
            await caller.close()
            raise
        self._tasks = Tasks("mesh client", tasks_max=STREAMS_MAX)
        self._caller = caller

    async def close(self) -> None:
        """End streams and subscriptions, fail what is in flight, disconnect."""
        caller, self._caller = self._caller, None
        await self._tasks.close()
        if caller is not None:
            await caller.close()

    # For the methods

    @property
    def _ready(self) -> Caller:
        if self._caller is None:
            raise MeshCallError(
                ErrorKind.LOST,
                "the client is not open; use it with 'async with'",
                outcome=Outcome.NOT_EXECUTED,
            )
        return self._caller

    def _check_open(self) -> None:
        _ = self._ready

    def _asked(self, timeout_s: float | None, endpoint: str = "") -> Asked:
        return Asked(timeout_s=timeout_s or self.timeout_s, endpoint=endpoint)

    async def _pages(self, method: str, member: str, endpoint: str) -> list[msgspec.Raw]:
        """All items of a list."""
        items: list[msgspec.Raw] = []
        params: dict[str, Any] = {}
        seen: set[str] = set()
        for _ in range(PAGES_MAX):
            raw = await self._ready.ask(method, params, self._asked(None, endpoint))
            page: dict[str, msgspec.Raw] = decoded(raw, dict[str, msgspec.Raw])
            items += decoded(page.get(member, msgspec.Raw(b"[]")), list[msgspec.Raw])
            cursor = decoded(raw, _Page).next_cursor
            if cursor is None or cursor in seen:
                return items
            seen.add(cursor)
            params = {"cursor": cursor}
        return items


class _Page(msgspec.Struct, rename="camel"):
    next_cursor: str | None = None
