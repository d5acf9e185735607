"""Agents in etcd: a key each, under a lease that its owner keeps alive.

Over the JSON gateway of the v3 interface, which every member serves. A change is only a nudge:
all keys are read again, and the watch begins at the revision after that reading, so nothing falls
between the two, whatever became of connection, member or history meanwhile.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import aiohttp
import msgspec

from mcp_proto.discovery import DiscoveryTable
from registry.core.found import AGENTS_MAX, Agent
from registry.drivers.discovery import Seen
from registry.drivers.web import Answer, Web, refused, secret

__all__ = ["EtcdDiscovery"]

T = TypeVar("T")

_PAUSE_S = 0.2
"""Between two readings: changes that come close together are read once."""
_CAPABILITIES_MAX = 64
_ROOM = "agents/"
_WHAT = "etcd"


class _Value(msgspec.Struct, frozen=True):
    """What an agent writes; anything else in it is its own."""

    url: str
    name: str = ""
    capabilities: tuple[str, ...] = ()


class _Written(msgspec.Struct, frozen=True):
    name: str
    url: str
    capabilities: tuple[str, ...]
    source: str = "mcp-mesh"


class _Header(msgspec.Struct, frozen=True):
    revision: int = 0


class _Pair(msgspec.Struct, frozen=True):
    key: str
    value: str = ""
    mod_revision: int = 0


class _Range(msgspec.Struct, frozen=True):
    header: _Header = _Header()
    kvs: tuple[_Pair, ...] = ()
    more: bool = False


class _Granted(msgspec.Struct, frozen=True):
    lease: int = msgspec.field(default=0, name="ID")
    ttl: int = msgspec.field(default=0, name="TTL")


class _Alive(msgspec.Struct, frozen=True):
    result: _Granted = _Granted()


class _Branch(msgspec.Struct, frozen=True):
    response_range: _Range = _Range()


class _Done(msgspec.Struct, frozen=True):
    succeeded: bool = False
    responses: tuple[_Branch, ...] = ()


class _Token(msgspec.Struct, frozen=True):
    token: str


class _Refusal(msgspec.Struct, frozen=True):
    message: str = ""
    error: str = ""


class EtcdDiscovery:
    """``Discovery`` in etcd."""

    origin = _WHAT
    lasting = False

    def __init__(self, table: DiscoveryTable) -> None:
        self._table = table
        self._web = Web(_WHAT, table.etcd_endpoints, tls_ca_file=table.tls_ca_file)
        self._prefix = table.etcd_prefix + _ROOM
        self._token = ""
        self._lease = 0
        self._announced: Agent | None = None

    async def found(self) -> AsyncIterator[Seen]:
        """See ``Discovery``."""
        while True:
            seen, revision = await self._read()
            yield seen
            await self._changed(revision + 1)
            await asyncio.sleep(_PAUSE_S)

    async def announce(self, agent: Agent) -> str | None:
        """See ``Discovery``."""
        if self._lease and not await self._keep_alive():
            self._lease = 0
        if not self._lease:
            self._announced = None
            asked = {"TTL": round(self._table.registry_ttl_seconds)}
            self._lease = (await self._ask("/v3/lease/grant", asked, _Granted)).lease
        if self._announced == agent:
            return None
        return await self._write(agent)

    async def withdraw(self) -> None:
        """See ``Discovery``; with the lease its key goes."""
        lease, self._lease, self._announced = self._lease, 0, None
        if lease:
            await self._ask("/v3/lease/revoke", {"ID": str(lease)}, _Done)

    async def close(self) -> None:
        """See ``Discovery``."""
        await self._web.close()

    async def _read(self) -> tuple[Seen, int]:
        asked = {**_all_below(self._prefix), "limit": AGENTS_MAX}
        found = await self._ask("/v3/kv/range", asked, _Range)
        agents: list[Agent] = []
        unreadable: list[tuple[str, str]] = []
        for pair in found.kvs:
            name = _plain(pair.key).removeprefix(self._prefix)
            try:
                value = msgspec.json.decode(_bytes(pair.value), type=_Value)
            except (msgspec.DecodeError, ValueError, RecursionError):
                unreadable.append((name, "its value is no JSON object with a url"))
                continue
            capabilities = value.capabilities[:_CAPABILITIES_MAX]
            agents.append(Agent(name=value.name or name, url=value.url, capabilities=capabilities))
        if found.more:
            unreadable.append(("…", f"only the first {AGENTS_MAX} agents are looked at"))
        return Seen(agents=tuple(agents), unreadable=tuple(unreadable)), found.header.revision

    async def _changed(self, revision: int) -> None:
        """Wait until a key changes from this revision on, or it is time to look anyway."""
        request = {**_all_below(self._prefix), "start_revision": revision}
        body = msgspec.json.encode({"create_request": request})
        try:
            async with asyncio.timeout(self._table.heartbeat_interval_seconds):
                async with self._web.open(
                    "POST", "/v3/watch", body=body, headers=self._headers()
                ) as response:
                    if response.status != 200:
                        raise refused(_WHAT, f"the watch is refused (status {response.status})")
                    await _second_line(response.content)
        except TimeoutError:
            return

    async def _keep_alive(self) -> bool:
        alive = await self._ask("/v3/lease/keepalive", {"ID": str(self._lease)}, _Alive)
        return alive.result.ttl > 0

    async def _write(self, agent: Agent) -> str | None:
        """Take the key unless somebody else has it; what we left there in another life is ours."""
        key = self._prefix + agent.name
        written = _Written(
            name=agent.name,
            url=agent.url,
            capabilities=agent.capabilities[:_CAPABILITIES_MAX],
        )
        put = {
            "key": _coded(key),
            "value": base64.b64encode(msgspec.json.encode(written)).decode(),
            "lease": str(self._lease),
        }
        free = {"key": _coded(key), "target": "CREATE", "create_revision": "0"}
        for _ in range(2):
            done = await self._ask(
                "/v3/kv/txn",
                {
                    "compare": [free],
                    "success": [{"request_put": put}],
                    "failure": [{"request_range": {"key": _coded(key)}}],
                },
                _Done,
            )
            if done.succeeded:
                self._announced = agent
                return None
            there = done.responses[0].response_range.kvs if done.responses else ()
            if not there or _url_of(there[0]) != agent.url:
                return f"the key {key} belongs to somebody else"
            free = {
                "key": _coded(key),
                "target": "MOD",
                "mod_revision": str(there[0].mod_revision),
            }
        return f"the key {key} is being written by somebody else"

    async def _ask(self, path: str, asked: Mapping[str, Any], kind: type[T]) -> T:
        answer = await self._authorized(path, msgspec.json.encode(asked))
        if answer.status != 200:
            raise refused(_WHAT, _reason(answer))
        try:
            # Numbers of 64 bits are written as texts.
            return msgspec.json.decode(answer.body, type=kind, strict=False)
        except (msgspec.DecodeError, RecursionError):
            raise refused(_WHAT, f"its answer to {path} is not that of etcd") from None

    async def _authorized(self, path: str, body: bytes) -> Answer:
        if self._table.etcd_user and not self._token:
            await self._log_in()
        answer = await self._web.ask("POST", path, body=body, headers=self._headers())
        if answer.status == 401 and self._table.etcd_user:
            await self._log_in()
            answer = await self._web.ask("POST", path, body=body, headers=self._headers())
        return answer

    async def _log_in(self) -> None:
        password = secret(self._table.etcd_password, "discovery.etcd_password")
        credential = {"name": self._table.etcd_user, "password": password}
        path = "/v3/auth/authenticate"
        answer = await self._web.ask("POST", path, body=msgspec.json.encode(credential))
        if answer.status != 200:
            raise refused(_WHAT, f"user {self._table.etcd_user}: {_reason(answer)}")
        try:
            self._token = msgspec.json.decode(answer.body, type=_Token).token
        except msgspec.DecodeError:
            raise refused(_WHAT, "it gave no token") from None

    def _headers(self) -> dict[str, str]:
        return {"authorization": self._token} if self._token else {}


async def _second_line(content: aiohttp.StreamReader) -> None:
    """The first line says that the watch is made; the next that something happened."""
    lines = 0
    async for chunk in content.iter_any():
        lines += chunk.count(b"\n")
        if lines > 1:
            return
    raise refused(_WHAT, "the watch ended")


def _all_below(prefix: str) -> dict[str, str]:
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    return {"key": _coded(prefix), "range_end": _coded(end)}


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _bytes(coded: str) -> bytes:
    return base64.b64decode(coded)


def _plain(coded: str) -> str:
    return _bytes(coded).decode(errors="replace")


def _url_of(pair: _Pair) -> str:
    try:
        return msgspec.json.decode(_bytes(pair.value), type=_Value).url
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ""


def _reason(answer: Answer) -> str:
    try:
        refusal = msgspec.json.decode(answer.body, type=_Refusal)
    except (msgspec.DecodeError, RecursionError):
        refusal = _Refusal()
    said = refusal.message or refusal.error or "no reason given"
    return f"refused with status {answer.status}: {said[:200]}"
