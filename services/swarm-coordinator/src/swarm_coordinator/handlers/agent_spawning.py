"""Agents are started: asked of the freest host, noted before they run, refused if nobody can."""

import asyncio
import hashlib
import re
from collections.abc import Iterable

import msgspec

from mcp_proto.contracts.swarm import Spawned
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core import decide
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.state import AgentState, SwarmState
from swarm_coordinator.handlers.agent_views import living, status_of
from swarm_coordinator.handlers.answers import bad, seconds
from swarm_coordinator.handlers.ports import Caller, Owner
from swarm_coordinator.handlers.toolset import Answer

__all__ = ["PATIENCE_S", "Wanted", "add", "all_started", "refused", "settled", "spawn", "started"]

PATIENCE_S = 0.5
"""Longest wait of a call that does not ask to wait: earlier clients want an answer in a second."""
SPAWN_WAIT_S = 60.0
"""Longest wait of one that does."""
ANSWER_S = 0.2
"""Kept of the caller's time for the answer itself."""
LOOK_S = 0.01
EXTERNAL = "external"
_CPU = re.compile(r"(\d+(?:\.\d+)?)(m?)")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?")
_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", 1)
    for base, suffixes in ((1024, ("i", "iB")), (1000, ("", "B")))
    for suffix in suffixes
}


class _Resources(msgspec.Struct, frozen=True, rename="camel"):
    cpu_limit: str | None = None
    memory_limit: str | None = None
    gpu_access: bool | None = None


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    runtime: str | None = None
    capabilities: tuple[str, ...] = ()


class _Spawn(msgspec.Struct, frozen=True, rename="camel"):
    agent_type: str | None = None
    type: str | None = None
    name: str | None = None
    capabilities: tuple[str, ...] = ()
    config: msgspec.Raw = ABSENT
    parent: str | None = None
    resources: _Resources = _Resources()
    wait: bool = False


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that is asked for, as ``agent_spawn`` and ``swarm_init`` say it.

    Attributes:
        type: built-in type or name of a runtime kind.
        name: for people.
        capabilities: declared.
        config: JSON object; ``ABSENT`` = none.
        parent: id or name; "" = by rank.
        cpu: cores; 0 = no wish.
        memory_bytes: 0 = no wish.
        gpu: whether it needs one.
        local: only beside the coordinator.
    """

    type: str
    name: str = ""
    capabilities: tuple[str, ...] = ()
    config: msgspec.Raw = ABSENT
    parent: str = ""
    cpu: float = 0.0
    memory_bytes: int = 0
    gpu: bool = False
    local: bool = False


class Allocated(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an agent may use, and who sees to it."""

    allocated: bool
    reason: str | None
    cpu: float | None
    memory: int | None
    gpu_device: str | None = None


class _Pool(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pool_id: str | None
    connections: int | None
    health_check: str | None


class _Metrics(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    spawn_time: float | None
    model_load_time: float | None
    memory_allocated: int | None


class _SpawnedAnswer(Answer, frozen=True, kw_only=True):
    agent_id: str
    swarm_id: str
    name: str
    type: str
    status: str
    estimated_ready_time: float | None
    capabilities: tuple[str, ...]
    resources: Allocated
    connection_pool: _Pool
    initialisation_metrics: _Metrics
    runtime: str | None
    tcp_endpoint: str | None = None
    claim: str | msgspec.UnsetType = msgspec.UNSET


_SPAWN = msgspec.json.Decoder(_Spawn)
_CONFIG = msgspec.json.Decoder(_Config)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def spawn(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    """``agent_spawn``."""
    asked = _SPAWN.decode(arguments)
    agent_type = asked.agent_type or asked.type
    if not agent_type:
        raise bad("/agentType", "agentType (or type) is required")
    warnings: tuple[str, ...] = ()
    if asked.agent_type and asked.type and asked.agent_type != asked.type:
        warnings = (f"type {asked.type[:64]!r} was ignored: agentType holds",)
    wanted = Wanted(
        type=agent_type,
        name=asked.name or "",
        capabilities=asked.capabilities,
        config=asked.config,
        parent=asked.parent or "",
        cpu=_cores(asked.resources.cpu_limit),
        memory_bytes=_bytes(asked.resources.memory_limit),
        gpu=bool(asked.resources.gpu_access),
    )
    agent, claim = await add(owner, wanted)
    if claim:
        answer = _spawned_answer(owner.state, owner.state.agents[agent], wanted)
        return msgspec.structs.replace(answer, claim=claim, warnings=warnings)
    wait_s = PATIENCE_S
    if asked.wait:
        wait_s = max(wait_s, min(SPAWN_WAIT_S, caller.deadline_s - owner.monotonic() - ANSWER_S))
    await settled(owner, agent, wait_s)
    answer = _spawned_answer(owner.state, owner.state.agents[agent], wanted)
    return msgspec.structs.replace(answer, warnings=warnings)


async def add(owner: Owner, wanted: Wanted) -> tuple[str, str]:
    """Note an agent in the log.

    Returns:
        Its id, and the claim token of an external one ("" = its process is to be spawned).

    Raises:
        Refusal: as ``decide.add_agent``.
    """
    config = _CONFIG.decode(wanted.config) if memoryview(wanted.config).nbytes else _Config()
    external = EXTERNAL in {wanted.type, config.runtime}
    agent = owner.new_id("agent")
    claim = owner.new_id("claim") if external else ""
    events = decide.add_agent(
        owner.state,
        agent=agent,
        agent_type=wanted.type,
        name=wanted.name,
        capabilities=tuple(dict.fromkeys((*wanted.capabilities, *config.capabilities))),
        parent=wanted.parent,
        config=_with_resources(wanted),
        external=external,
        claim=hashlib.sha256(claim.encode()).hexdigest() if claim else "",
        now_ms=owner.now_ms(),
    )
    await owner.commit(events)
    return agent, claim


async def settled(owner: Owner, agent: str, wait_s: float) -> None:
    """Start the process of an agent and wait until it runs, or ``wait_s`` is over.

    Raises:
        Refusal: nobody can run it.
    """
    until = owner.monotonic() + wait_s
    spawning = owner.begin_spawn(agent)
    done, _ = await asyncio.wait({spawning}, timeout=max(0.0, wait_s))
    if done:
        refused(spawning.result(), owner.state.agents[agent])
        await started(owner, (agent,), until - owner.monotonic())
        state = owner.state.agents[agent]
        if state.status == "terminated":
            raise Refusal("agent", "failed", state.reason or "it ended", agentId=agent)


async def started(owner: Owner, agents: Iterable[str], wait_s: float) -> None:
    """Wait until agents have beaten for the first time or ended, or the time is over.

    Looked at, not waited for: the state tells nobody of a change, and a beat is near.
    """
    open_ = set(agents)
    until = owner.monotonic() + wait_s
    while owner.monotonic() < until:
        known = (owner.state.agents.get(agent) for agent in open_)
        open_ = {one.id for one in known if one is not None and one.status == "spawning"}
        if not open_:
            return
        await asyncio.sleep(LOOK_S)


async def all_started(owner: Owner) -> bool:
    """Give agents that start just now a moment to be there; False = there are none."""
    starting = [
        one.id for one in living(owner.state) if one.status == "spawning" and not one.external
    ]
    if starting:
        await started(owner, starting, PATIENCE_S)
    return bool(starting)


def refused(spawned: Spawned, agent: AgentState) -> None:
    """Raise what a refused spawn is.

    Raises:
        Refusal: ``agent`` or ``resource``.
    """
    if not spawned.refused:
        return
    code = "agent" if spawned.refused in {"no_runtime", "failed"} else "resource"
    raise Refusal(
        code,
        spawned.refused,
        spawned.message or f"no host can run an agent of type {agent.type}",
        agentId=agent.id,
        agentType=agent.type,
    )


def _with_resources(wanted: Wanted) -> msgspec.Raw:
    """The config with what was wished, in the form that ``Owner.spawn`` reads."""
    wish: dict[str, object] = {}
    if wanted.cpu:
        wish["cpu"] = wanted.cpu
    if wanted.memory_bytes:
        wish["memoryBytes"] = wanted.memory_bytes
    if wanted.gpu:
        wish["gpu"] = True
    wishes: dict[str, object] = {"resources": wish} if wish else {}
    if wanted.local:
        wishes["local"] = True
    if not wishes:
        return wanted.config
    members = _MEMBERS.decode(wanted.config) if memoryview(wanted.config).nbytes else {}
    return msgspec.Raw(msgspec.json.encode({**members, **wishes}))


def _spawned_answer(state: SwarmState, agent: AgentState, wanted: Wanted) -> _SpawnedAnswer:
    spawned = agent.spawned
    reason = None
    if spawned is None:
        reason = "it attaches by itself" if agent.external else "its process does not run yet"
    elif not spawned.limited:
        reason = spawned.limits_reason or "no limit was asked for"
    return _SpawnedAnswer(
        agent_id=agent.id,
        swarm_id=state.swarm,
        name=agent.name,
        type=agent.type,
        status=status_of(agent),
        estimated_ready_time=_ready_s(state, agent),
        capabilities=agent.capabilities,
        resources=Allocated(
            allocated=spawned is not None and spawned.limited,
            reason=reason,
            cpu=wanted.cpu or None,
            memory=wanted.memory_bytes or None,
        ),
        connection_pool=_Pool(
            pool_id=agent.host or None,
            connections=_sharing(state, agent.host) if agent.host else None,
            health_check="beat" if agent.status == "active" else None,
        ),
        initialisation_metrics=_Metrics(
            spawn_time=None if spawned is None else spawned.spawn_ms,
            model_load_time=None,
            memory_allocated=None if spawned is None else spawned.memory_bytes,
        ),
        runtime=agent.runtime or None,
    )


def _sharing(state: SwarmState, host: str) -> int:
    return sum(one.host == host for one in living(state))


def _ready_s(state: SwarmState, agent: AgentState) -> float | None:
    """Mean time that agents of this type took to run; 0 for one that runs, None = not measured."""
    if agent.status != "spawning":
        return 0.0
    known = [
        one.spawned.spawn_ms
        for one in state.agents.values()
        if one.type == agent.type and one.spawned is not None and one.spawned.spawn_ms is not None
    ]
    return seconds(sum(known) / len(known)) if known else None


def _cores(text: str | None) -> float:
    if not text:
        return 0.0
    found = _CPU.fullmatch(text.strip())
    cores = 0.0 if found is None else float(found[1]) / (1000 if found[2] else 1)
    if not 0 < cores <= 4096:
        raise bad("/resources/cpuLimit", 'expected cores like "2" or "2000m"')
    return cores


def _bytes(text: str | None) -> int:
    if not text:
        return 0
    found = _MEMORY.fullmatch(text.strip())
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2] or ""])
    if not 0 < size <= 2**50:
        raise bad("/resources/memoryLimit", 'expected bytes like "512Mi" or "4Gi"')
    return size
