"""What the tools about swarms do."""

import asyncio

import msgspec

from mcp_proto.contracts.swarm import Spawned
from swarm_coordinator.core import decide
from swarm_coordinator.core.arguments import AgentWanted, Init, init_of
from swarm_coordinator.core.records import SwarmRecord
from swarm_coordinator.core.spec import SwarmConfig
from swarm_coordinator.core.state import AgentState, SwarmState
from swarm_coordinator.core.views import PlanError
from swarm_coordinator.handlers import swarm_schemas as schemas
from swarm_coordinator.handlers.agent_spawning import PATIENCE_S, Wanted, add, started
from swarm_coordinator.handlers.agent_tools import listed, stop
from swarm_coordinator.handlers.agent_views import (
    current_task,
    health_of,
    living,
    stats_of,
    status_of,
)
from swarm_coordinator.handlers.answers import bad, iso, seconds
from swarm_coordinator.handlers.links import Links, links_of
from swarm_coordinator.handlers.paging import paged
from swarm_coordinator.handlers.ports import Caller, Owner, SwarmLimits, Swarms
from swarm_coordinator.handlers.schemas import LIST_DEFAULT
from swarm_coordinator.handlers.task_views import progress_of
from swarm_coordinator.handlers.toolset import Answer, Repeated, Tool

__all__ = ["TOOLS"]


# Beginning


class _Begun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    agent_id: str
    name: str
    type: str
    status: str
    message: str | None = None
    claim: str | msgspec.UnsetType = msgspec.UNSET


class _Initialized(Answer, frozen=True, kw_only=True):
    swarm_id: str
    name: str
    topology: str
    max_agents: int
    strategy: str
    agents: tuple[_Begun, ...]
    config: dict[str, object]
    success: bool = True
    status: str = "initialized"


async def _init(swarms: Swarms, caller: Caller, arguments: msgspec.Raw) -> Answer:
    try:
        asked = init_of(arguments)
    except PlanError as error:
        raise bad(error.where, error.message) from None
    if asked.idempotency:
        owner = await _created_once(swarms, caller, asked)
    else:
        owner = await _created(swarms, caller, asked)
    claims = await _begin(owner, asked)
    return _initialized(owner.state, claims, asked.warnings)


async def _init_again(owner: Owner, _caller: Caller, arguments: msgspec.Raw) -> Answer:
    """A repeat: the swarm as it is; claim tokens are told once only."""
    try:
        asked = init_of(arguments)
    except PlanError as error:
        raise bad(error.where, error.message) from None
    return _initialized(owner.state, {}, asked.warnings)


def _initialized(state: SwarmState, claims: dict[str, str], warnings: tuple[str, ...]) -> Answer:
    agents = tuple(_begun(agent, claims) for agent in state.agents.values())
    return _Initialized(
        success=all(agent.status != "terminated" for agent in agents),
        swarm_id=state.swarm,
        name=state.name,
        topology=state.topology,
        max_agents=state.config.max_agents,
        strategy=state.config.strategy,
        agents=agents,
        config=_config(state.config),
        warnings=warnings,
    )


async def _created(swarms: Swarms, caller: Caller, asked: Init) -> Owner:
    events = decide.create(
        swarm=swarms.new_id("swarm"),
        tenant=caller.tenant,
        principal=caller.principal,
        topology=asked.topology,
        config=_limited(asked.config, swarms.limits),
        owner=swarms.instance,
        node=swarms.node,
        name=asked.name,
        idempotency=asked.idempotency,
        now_ms=swarms.now_ms(),
    )
    return await swarms.create(caller, events)


async def _created_once(swarms: Swarms, caller: Caller, asked: Init) -> Owner:
    """The swarm of this key, made now.

    Raises:
        Repeated: it was made before.
    """
    async with swarms.alone(caller, asked.idempotency) as hold:
        known = await _known(swarms, caller, asked.idempotency)
        if known is not None:
            raise Repeated(known)
        owner = await _created(swarms, caller, asked)
        if hold.held:
            return owner
        # This process stood still meanwhile, and another may have been let in: the older one stays.
        oldest = await _known(swarms, caller, asked.idempotency)
        if oldest is None or oldest.swarm == owner.state.swarm:
            return owner
        await owner.commit(decide.destroy(owner.state, "made twice", owner.now_ms()))
        await owner.recorded("")
        raise Repeated(oldest)


def _limited(config: SwarmConfig, limits: SwarmLimits) -> SwarmConfig:
    """The answer says what became of it (``maxAgents``)."""
    return msgspec.structs.replace(
        config,
        max_agents=min(config.max_agents, limits.max_agents),
        agent_timeout=limits.agent_timeout_s,
    )


async def _known(swarms: Swarms, caller: Caller, key: str) -> SwarmRecord | None:
    """The oldest swarm that the caller has under this key."""
    records = await swarms.records(caller)
    under = [one for one in records if one.idempotency == key and one.status == "active"]
    return min(under, key=lambda one: (one.created_ms, one.swarm), default=None)


async def _begin(owner: Owner, asked: Init) -> dict[str, str]:
    """Initial agents, each a process; those that take longer than the answer go on starting.

    Returns:
        Agent → claim token, of those that attach by themselves.
    """
    names: dict[str, str] = {}
    claims: dict[str, str] = {}
    spawning: set[asyncio.Future[Spawned]] = set()
    for wanted in asked.agents:
        agent, claim = await add(owner, _wanted(wanted, names))
        names.setdefault(wanted.name, agent)
        if claim:
            claims[agent] = claim
        else:
            spawning.add(owner.begin_spawn(agent))
    if spawning:
        until = owner.monotonic() + PATIENCE_S
        await asyncio.wait(spawning, timeout=PATIENCE_S)
        placed = [agent for agent in owner.state.agents if agent not in claims]
        await started(owner, placed, until - owner.monotonic())
    return claims


def _wanted(agent: AgentWanted, names: dict[str, str]) -> Wanted:
    return Wanted(
        type=agent.type,
        name=agent.name,
        capabilities=agent.capabilities,
        config=agent.config,
        parent=names.get(agent.parent, agent.parent),
    )


def _begun(agent: AgentState, claims: dict[str, str]) -> _Begun:
    return _Begun(
        agent_id=agent.id,
        name=agent.name,
        type=agent.type,
        status=status_of(agent),
        message=agent.reason or None if agent.status == "terminated" else None,
        claim=claims.get(agent.id, msgspec.UNSET),
    )


def _config(config: SwarmConfig) -> dict[str, object]:
    """Every setting, defaults included."""
    names = dict(zip(config.__struct_fields__, config.__struct_encode_fields__, strict=True))
    return {names[field]: getattr(config, field) for field in config.__struct_fields__}


# Reading


class _Agent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    name: str
    type: str
    status: str
    health: float
    current_task: str | None


class _Metrics(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    tasks_completed: int
    avg_completion_time: float | None
    success_rate: float | None
    samples: int
    in_flight: int
    queued: int


class _StatusAnswer(Answer, frozen=True, kw_only=True):
    swarm_id: str
    name: str
    topology: str
    status: str
    agents: tuple[object, ...]
    metrics: _Metrics
    agent_count: int
    active_agents: int
    task_count: int
    pending_tasks: int
    completed_tasks: int
    links: Links
    owner: str | None
    sequence: int
    created_at: str
    tasks: tuple[dict[str, object], ...] | msgspec.UnsetType = msgspec.UNSET


class _Status(msgspec.Struct, frozen=True):
    verbose: bool = False


_STATUS = msgspec.json.Decoder(_Status)


async def _status(owner: Owner, _caller: Caller, arguments: msgspec.Raw) -> Answer:
    verbose = _STATUS.decode(arguments).verbose
    state, now_ms = owner.state, owner.now_ms()
    agents = living(state)
    counters = state.counters
    pending = sum(not task.ended for task in state.tasks.values())
    return _StatusAnswer(
        swarm_id=state.swarm,
        name=state.name,
        topology=state.topology,
        status=state.status,
        agents=tuple(_agent(state, agent, now_ms, verbose=verbose) for agent in agents),
        metrics=_metrics(state),
        agent_count=len(agents),
        active_agents=sum(agent.status == "active" for agent in agents),
        task_count=counters.submitted,
        pending_tasks=pending,
        completed_tasks=counters.completed,
        links=links_of(state),
        owner=state.owner or None,
        sequence=state.sequence,
        created_at=iso(state.created_ms),
        tasks=_tasks(state) if verbose else msgspec.UNSET,
    )


def _agent(state: SwarmState, agent: AgentState, now_ms: int, *, verbose: bool) -> object:
    if verbose:
        shown: dict[str, object] = msgspec.to_builtins(listed(state, agent, now_ms))
        return shown | {
            "parent": agent.parent or None,
            "load": agent.load,
            "slots": agent.slots,
            "stats": stats_of(agent),
        }
    return _Agent(
        id=agent.id,
        name=agent.name,
        type=agent.type,
        status=status_of(agent),
        health=health_of(agent, now_ms),
        current_task=current_task(agent),
    )


def _metrics(state: SwarmState) -> _Metrics:
    """Averages over the ended tasks since the swarm began; none yet = null."""
    counters = state.counters
    ended = counters.completed + counters.failed
    running = sum(task.running for task in state.tasks.values())
    waiting = sum(
        max(0, task.total - task.ended_steps - task.running)
        for task in state.tasks.values()
        if not task.ended
    )
    average = counters.completed_ms / counters.completed if counters.completed else None
    return _Metrics(
        tasks_completed=counters.completed,
        avg_completion_time=seconds(average),
        success_rate=round(counters.completed / ended, 4) if ended else None,
        samples=ended,
        in_flight=running,
        queued=waiting,
    )


def _tasks(state: SwarmState) -> tuple[dict[str, object], ...]:
    return tuple(
        {"taskId": task.id, "status": task.status, "progress": progress_of(task)}
        for task in state.tasks.values()
    )


class _List(msgspec.Struct, frozen=True, rename="camel"):
    include_destroyed: bool = False
    limit: int = LIST_DEFAULT
    cursor: str | None = None


class _Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    swarm_id: str
    name: str
    topology: str
    status: str
    default: bool
    agent_count: int
    open_tasks: int
    created_at: str
    owner: str | None


class _Swarms(Answer, frozen=True, kw_only=True):
    swarms: tuple[_Entry, ...]
    count: int
    cursor: str | msgspec.UnsetType = msgspec.UNSET


_LIST = msgspec.json.Decoder(_List)


async def _list(swarms: Swarms, caller: Caller, arguments: msgspec.Raw) -> Answer:
    asked = _LIST.decode(arguments)
    default = await swarms.default(caller)
    found = [
        record
        for record in await swarms.records(caller)
        if asked.include_destroyed or record.status == "active"
    ]
    page, cursor = paged(found, lambda record: record.swarm, asked.cursor, asked.limit)
    entries = tuple(
        _Entry(
            swarm_id=record.swarm,
            name=record.name,
            topology=record.topology,
            status=record.status,
            default=record.swarm == default,
            agent_count=record.agents,
            open_tasks=record.tasks,
            created_at=iso(record.created_ms),
            owner=record.owner or None,
        )
        for record in page
    )
    return _Swarms(swarms=entries, count=len(entries), cursor=cursor)


# Ending


class _Destroyed(Answer, frozen=True, kw_only=True):
    swarm_id: str
    agents_terminated: int
    agents_unconfirmed: int
    tasks_cancelled: int
    memory_keys_removed: int | None
    status: str = "destroyed"


class _Destroy(msgspec.Struct, frozen=True):
    force: bool = False


_DESTROY = msgspec.json.Decoder(_Destroy)


async def _destroy(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    state = owner.state
    agents = [agent for agent in living(state) if agent.host]
    watched = [] if _DESTROY.decode(arguments).force else agents
    open_tasks = [task for task in state.tasks.values() if not task.ended]
    # The requests are on their way before the log says that the agents are gone: so each exit is
    # told to us, and not to the effect of that event, which asks for the same.
    async with asyncio.TaskGroup() as group:
        stopping = [group.create_task(stop(owner, agent)) for agent in watched]
        await asyncio.sleep(0)
        reason = f"destroyed by {caller.principal}"
        await owner.commit(decide.destroy(owner.state, reason, owner.now_ms()))
    await owner.recorded("")  # the next call without an id must not mean this swarm
    exited = sum(one.result() is not None for one in stopping)
    removed = await owner.memory.forget(state.swarm)
    return _Destroyed(
        swarm_id=state.swarm,
        agents_terminated=exited,
        agents_unconfirmed=len(agents) - exited,
        tasks_cancelled=sum(task.status in {"cancelling", "cancelled"} for task in open_tasks),
        memory_keys_removed=removed,
    )


TOOLS = (
    Tool(schemas.SWARM_INIT, anywhere=_init, on_owner=_init_again, warns=True),
    Tool(schemas.SWARM_LIST, anywhere=_list),
    Tool(schemas.SWARM_STATUS, on_owner=_status),
    Tool(schemas.SWARM_DESTROY, on_owner=_destroy),
)
