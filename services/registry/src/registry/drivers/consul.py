"""Agents in Consul: instances of one service, each with a check of its time to live.

One service for all agents, so that a single blocking query tells of every change of them and of
their checks. The name of an instance is its ``Meta.name``, its address ``Meta.url``, or what
Consul knows of it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import msgspec

from mcp_proto.discovery import DiscoveryTable
from registry.core.found import AGENTS_MAX, Agent
from registry.drivers.discovery import Seen
from registry.drivers.web import Answer, Web, refused, secret

__all__ = ["ConsulDiscovery"]

_PAUSE_S = 0.2
"""Between two queries: a service that changes all the time is read at most so often."""
_LATE_S = 10.0
"""Answers to blocking queries come up to a sixteenth later than asked, and travel."""
_META_CHARS_MAX = 512
_CRITICAL_MINUTES = 10
_WHAT = "consul"


class _Service(msgspec.Struct, frozen=True, rename="pascal"):
    i_d: str = msgspec.field(default="", name="ID")
    address: str = ""
    port: int = 0
    meta: dict[str, str] | None = None


class _Node(msgspec.Struct, frozen=True, rename="pascal"):
    address: str = ""


class _Instance(msgspec.Struct, frozen=True, rename="pascal"):
    service: _Service
    node: _Node = _Node()


class ConsulDiscovery:
    """``Discovery`` in Consul."""

    origin = _WHAT
    lasting = False

    def __init__(self, table: DiscoveryTable) -> None:
        self._table = table
        self._web = Web(_WHAT, (table.consul_url,), tls_ca_file=table.tls_ca_file)
        self._announced: Agent | None = None
        self._id = ""

    async def found(self) -> AsyncIterator[Seen]:
        """See ``Discovery``."""
        index = 0
        while True:
            seen, new = await self._read(index)
            yield seen
            # An index that goes back, or is none, means another server or a restored state.
            index = new if new >= index and new > 0 else 0
            await asyncio.sleep(_PAUSE_S if index else self._table.heartbeat_interval_seconds)

    async def announce(self, agent: Agent) -> str | None:
        """See ``Discovery``."""
        if self._announced == agent:
            alive = await self._ask("PUT", f"/v1/agent/check/pass/service:{quote(self._id)}")
            if alive.status == 200:
                return None
            # The Consul agent has forgotten us.
            self._announced = None
        self._id = f"mcp-mesh-{agent.name}"
        ttl_s = round(self._table.registry_ttl_seconds)
        asked = {
            "ID": self._id,
            "Name": self._table.consul_service,
            "Tags": ["mcp", "mcp-mesh"],
            "Meta": {
                "name": agent.name,
                "url": agent.url,
                "capabilities": ",".join(agent.capabilities)[:_META_CHARS_MAX],
            },
            "Check": {
                "TTL": f"{ttl_s}s",
                "Status": "passing",
                "DeregisterCriticalServiceAfter": f"{_CRITICAL_MINUTES}m",
            },
        }
        answer = await self._ask("PUT", "/v1/agent/service/register", msgspec.json.encode(asked))
        if answer.status != 200:
            raise refused(_WHAT, _reason(answer))
        self._announced = agent
        return None

    async def withdraw(self) -> None:
        """See ``Discovery``."""
        announced, self._announced = self._announced, None
        if announced is not None:
            path = f"/v1/agent/service/deregister/{quote(self._id)}"
            answer = await self._ask("PUT", path)
            if answer.status not in {200, 404}:
                raise refused(_WHAT, _reason(answer))

    async def close(self) -> None:
        """See ``Discovery``."""
        await self._web.close()

    async def _read(self, index: int) -> tuple[Seen, int]:
        wait_s = round(self._table.heartbeat_interval_seconds)
        query = f"?passing=true&index={index}&wait={wait_s}s" if index else "?passing=true"
        path = f"/v1/health/service/{quote(self._table.consul_service)}{query}"
        late_s = wait_s + wait_s / 16 + _LATE_S
        answer = await self._ask("GET", path, timeout_s=late_s if index else _LATE_S)
        if answer.status != 200:
            raise refused(_WHAT, _reason(answer))
        try:
            instances = msgspec.json.decode(answer.body, type=list[_Instance])
            new = int(answer.headers.get("x-consul-index", "0"))
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise refused(_WHAT, "its answer is not that of Consul") from None
        return _seen(instances), new

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = _LATE_S
    ) -> Answer:
        return await self._web.ask(
            method, path, body=body, headers=self._headers(), timeout_s=timeout_s
        )

    def _headers(self) -> Mapping[str, str]:
        token = secret(self._table.consul_token, "discovery.consul_token")
        return {"x-consul-token": token} if token else {}


def _seen(instances: list[_Instance]) -> Seen:
    agents: list[Agent] = []
    unreadable: list[tuple[str, str]] = []
    for one in instances[:AGENTS_MAX]:
        meta = one.service.meta or {}
        name = meta.get("name") or one.service.i_d
        url = meta.get("url") or _address(one)
        if not url:
            unreadable.append((name, "it has neither a url in its meta data nor a port"))
            continue
        words = (word.strip() for word in meta.get("capabilities", "").split(","))
        agents.append(Agent(name=name, url=url, capabilities=tuple(filter(None, words))))
    if len(instances) > AGENTS_MAX:
        unreadable.append(("…", f"only the first {AGENTS_MAX} agents are looked at"))
    agents.sort(key=lambda agent: (agent.name, agent.url))
    return Seen(agents=tuple(agents), unreadable=tuple(unreadable))


def _address(one: _Instance) -> str:
    host = one.service.address or one.node.address
    if not host or not one.service.port:
        return ""
    return f"http://{f'[{host}]' if ':' in host else host}:{one.service.port}"


def _reason(answer: Answer) -> str:
    said = answer.body[:200].decode(errors="replace").strip() or "no reason given"
    return f"refused with status {answer.status}: {said}"
