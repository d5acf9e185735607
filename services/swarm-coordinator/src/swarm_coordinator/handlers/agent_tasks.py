"""One agent is given one task: a plan of one phase that names the agent."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.spec import PhaseSpec, Priority, TaskSpec
from swarm_coordinator.handlers.agent_spawning import all_started
from swarm_coordinator.handlers.answers import bad
from swarm_coordinator.handlers.finding import agent_in
from swarm_coordinator.handlers.ports import Caller, Owner
from swarm_coordinator.handlers.submitting import submit, submitted
from swarm_coordinator.handlers.toolset import Answer

__all__ = ["give"]

PHASE = "task"
STARTING_MS = 1_000
_TIMEOUT_S = 3600


class _Work(msgspec.Struct, frozen=True):
    description: str
    tool: str | None = None
    prompt: str | None = None
    input: msgspec.Raw = ABSENT
    priority: Priority = "medium"
    idempotent: bool = True


class _Give(msgspec.Struct, frozen=True, rename="camel"):
    agent_id: str
    task: str | _Work
    timeout: int | None = None
    wait: bool = False
    idempotency_key: str | None = None


class _Given(Answer, frozen=True, kw_only=True):
    task_id: str
    swarm_id: str
    agent_id: str
    status: str
    result: msgspec.Raw | msgspec.UnsetType | None = msgspec.UNSET
    partial: bool | msgspec.UnsetType = msgspec.UNSET


_GIVE = msgspec.json.Decoder(_Give)


async def give(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    """``agent_task``."""
    asked = _GIVE.decode(arguments)
    agent = agent_in(owner.state, asked.agent_id)
    if agent.status == "spawning":
        await all_started(owner)
    if agent.status != "active":
        later = {"retryAfterMs": STARTING_MS} if agent.status == "spawning" else {}
        message = f"the agent takes no work: it is {agent.status}"
        raise Refusal("agent", agent.status, message, agentId=agent.id, **later)
    work = _Work(asked.task) if isinstance(asked.task, str) else asked.task
    spec = TaskSpec(
        description=work.description,
        priority=work.priority,
        timeout=asked.timeout or _TIMEOUT_S,
        phases=(
            PhaseSpec(
                name=PHASE,
                agents=(agent.id,),
                tool=work.tool or "",
                prompt=work.prompt or ("" if work.tool else work.description),
                input=work.input,
                idempotent=work.idempotent,
            ),
        ),
    )
    try:
        key = asked.idempotency_key or ""
        task = await submit(owner, caller, spec, key, wait=asked.wait)
    except Refusal as refusal:
        if refusal.code != "params":
            raise
        where = str(refusal.data.get("where", ""))
        # The plan is ours: the caller knows only the arguments it was made of.
        raise bad("/task" if where.startswith("/task") else where, refusal.message) from None
    said = await submitted(owner, caller, task, wait=asked.wait)
    return _Given(
        task_id=task,
        swarm_id=said.swarm_id,
        agent_id=agent.id,
        status=said.status,
        result=said.result,
        partial=said.partial,
    )
