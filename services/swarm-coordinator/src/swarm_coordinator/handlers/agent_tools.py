"""What the tools about agents do."""

import asyncio

import msgspec

from mcp_proto.contracts.swarm import AgentCommand, Commanded
from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.core import decide
from swarm_coordinator.core.state import AgentState, SwarmState
from swarm_coordinator.handlers import agent_schemas as schemas
from swarm_coordinator.handlers.agent_messages import send
from swarm_coordinator.handlers.agent_spawning import spawn
from swarm_coordinator.handlers.agent_tasks import give
from swarm_coordinator.handlers.agent_views import (
    HealthDetail,
    current_task,
    health_detail,
    health_of,
    stats_of,
    status_of,
)
from swarm_coordinator.handlers.finding import agent_in
from swarm_coordinator.handlers.ports import Caller, Owner, Swarms
from swarm_coordinator.handlers.toolset import Answer, Tool

__all__ = ["TOOLS", "listed", "stop"]

STOP_WAIT_S = 0.7
"""Longest wait for a process to exit: the answer must come within a second."""


# Reading


class _Listed(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    agent_id: str
    id: str
    swarm_id: str
    name: str
    type: str
    status: str
    health: float
    current_task: str | None
    capabilities: tuple[str, ...]
    runtime: str | None


class _List(msgspec.Struct, frozen=True):
    filter: str | None = None


class _ListAnswer(Answer, frozen=True, kw_only=True):
    swarm_id: str
    agents: tuple[_Listed, ...]
    count: int


_LIST = msgspec.json.Decoder(_List)


def listed(state: SwarmState, agent: AgentState, now_ms: int) -> _Listed:
    """One agent in a list."""
    return _Listed(
        agent_id=agent.id,
        id=agent.id,
        swarm_id=state.swarm,
        name=agent.name,
        type=agent.type,
        status=status_of(agent),
        health=health_of(agent, now_ms),
        current_task=current_task(agent),
        capabilities=agent.capabilities,
        runtime=agent.runtime or None,
    )


async def _agents(owner: Owner, _caller: Caller, arguments: msgspec.Raw) -> Answer:
    wanted = _LIST.decode(arguments).filter or ""
    state, now_ms = owner.state, owner.now_ms()
    found = tuple(
        listed(state, agent, now_ms)
        for agent in state.agents.values()
        if _passes(agent, wanted.strip().lower())
    )
    return _ListAnswer(swarm_id=state.swarm, agents=found, count=len(found))


def _passes(agent: AgentState, wanted: str) -> bool:
    if wanted == "all":
        return True
    if not wanted:
        return agent.status != "terminated"
    if wanted == "idle":
        return agent.status == "active" and not agent.load
    if wanted == "active":
        return agent.status == "active"
    return wanted == status_of(agent) or (
        wanted == agent.type.lower() and agent.status != "terminated"
    )


class _One(msgspec.Struct, frozen=True, rename="camel"):
    agent_id: str
    drain: bool = False


class _StatusAnswer(Answer, frozen=True, kw_only=True):
    agent_id: str
    swarm_id: str
    name: str
    type: str
    status: str
    health: float
    health_detail: HealthDetail
    current_task: str | None
    last_heartbeat: int | None
    runtime: str | None
    model_source: str | None
    capabilities: tuple[str, ...]
    host: str | None
    pid: int | None
    epoch: int
    slots: int
    outstanding: int
    mail: int
    stats: dict[str, object]


_ONE = msgspec.json.Decoder(_One)


async def _status(owner: Owner, _caller: Caller, arguments: msgspec.Raw) -> Answer:
    state, now_ms = owner.state, owner.now_ms()
    agent = agent_in(state, _ONE.decode(arguments).agent_id)
    return _StatusAnswer(
        agent_id=agent.id,
        swarm_id=state.swarm,
        name=agent.name,
        type=agent.type,
        status=status_of(agent),
        health=health_of(agent, now_ms),
        health_detail=health_detail(agent, now_ms),
        current_task=current_task(agent),
        last_heartbeat=owner.last_beat_ms(agent.id),
        runtime=agent.runtime or None,
        model_source=agent.model_source or None,
        capabilities=agent.capabilities,
        host=agent.host or None,
        pid=agent.spawned.pid if agent.spawned is not None else None,
        epoch=agent.epoch,
        slots=agent.slots,
        outstanding=agent.load,
        mail=len(agent.mailbox),
        stats=stats_of(agent),
    )


# Ending


class _TerminateAnswer(Answer, frozen=True, kw_only=True):
    agent_id: str
    swarm_id: str
    status: str
    exit_status: int | None
    steps_reassigned: int


async def _terminate(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    asked = _ONE.decode(arguments)
    agent = agent_in(owner.state, asked.agent_id)
    outstanding, exited = 0, None
    reason = f"asked by {caller.principal}"
    if asked.drain:
        await owner.commit(decide.drain(owner.state, agent.id, reason, owner.now_ms()))
    elif agent.status != "terminated":
        outstanding = len(agent.items)
        # The request is on its way before the log says that the agent is gone: so its exit is
        # told to us, and not to the effect of that event, which asks for the same.
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(stop(owner, agent))
            await asyncio.sleep(0)
            await owner.commit(decide.terminate(owner.state, agent.id, reason, owner.now_ms()))
        exited = stopping.result()
    return _TerminateAnswer(
        agent_id=agent.id,
        swarm_id=owner.state.swarm,
        status=status_of(agent),
        exit_status=exited,
        steps_reassigned=outstanding,
    )


async def stop(owner: Owner, agent: AgentState) -> int | None:
    """Have the process of an agent ended; its exit status, None = nobody saw it exit in time."""
    if not agent.host:
        return None
    command = AgentCommand(
        swarm=owner.state.swarm,
        owner_epoch=owner.state.owner_epoch,
        agent=agent.id,
        stop=True,
    )
    try:
        answer: Commanded = await owner.command(agent.id, command, STOP_WAIT_S)
    except MeshError as error:
        if error.kind in {ErrorKind.NO_RUNNER, ErrorKind.DEADLINE, ErrorKind.LOST}:
            return None
        raise
    return answer.exited


# Types


KNOWN_TYPES = {
    "analyst": "Statistics of csv and jsonl data: counts, sums, percentiles.",
    "coder": "Runs formatters and fixers on a copy and returns the difference.",
    "coordinator": "Plans from templates, merges outputs, breaks ties of votes.",
    "researcher": "Searches given roots and resources and ranks what it finds.",
    "reviewer": "Runs linters and returns their findings.",
    "security": "Looks for secrets and unsafe code by rules.",
    "tester": "Runs shards of a test suite and reports failures and durations.",
    "validator": "Checks data against JSON Schema and assertions.",
    "tool": "Calls MCP tools of the mesh with your rights.",
    "function": "Runs a Python function that its host is configured with.",
    "command": "Runs a command that its host allows, without a shell, in a directory of its own.",
    "llm": "A language model with a list of allowed tools and a budget.",
    "synadia": "Prompts an agent of the Synadia Agent Protocol.",
    "container": "Runs one of the other kinds in a container.",
}
"""What the types do that every mesh names alike; whether one is there, hosts say."""


class _Type(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    hosts: int
    description: str | None


class _TypesAnswer(Answer, frozen=True, kw_only=True):
    types: tuple[_Type, ...]
    count: int


async def _types(swarms: Swarms, caller: Caller, _arguments: msgspec.Raw) -> Answer:
    hosts: dict[str, int] = {}
    for offer in await swarms.offers(caller):
        for name in set(offer.types):
            hosts[name] = hosts.get(name, 0) + 1
    types = tuple(
        _Type(type=name, hosts=hosts[name], description=KNOWN_TYPES.get(name))
        for name in sorted(hosts)
    )
    return _TypesAnswer(types=types, count=len(types))


TOOLS = (
    Tool(schemas.AGENT_SPAWN, on_owner=spawn),
    Tool(schemas.AGENT_LIST, on_owner=_agents),
    Tool(schemas.AGENT_STATUS, on_owner=_status),
    Tool(schemas.AGENT_MESSAGE, on_owner=send),
    Tool(schemas.AGENT_TASK, on_owner=give),
    Tool(schemas.AGENT_TERMINATE, on_owner=_terminate),
    Tool(schemas.AGENT_TYPES, anywhere=_types),
)
