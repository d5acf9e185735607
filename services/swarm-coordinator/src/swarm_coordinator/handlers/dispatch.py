"""From a verified call to its answer: which swarm it means, what the tool does, how it is said.

Whoever receives a call (``service``, ``orchestrator``) has verified the caller and asks here, in
this order: ``permission_of`` (the caller's grants must hold it), ``check`` (arguments fit the
listed schema), then ``call_anywhere`` where the tool is in ``ANYWHERE``; else ``target_of`` says
which swarm is meant, and ``call_on_owner`` runs on the owner of that swarm. A swarm that the
caller has not is answered with ``no_swarm``.

Refusals are results with ``isError``; what is the caller's mistake or the mesh's raises.
"""

from collections.abc import Awaitable

import msgspec

from mcp_proto.codec import pick, splice
from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY, TaskRecord
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.names import SWARM_SERVER
from swarm_coordinator.core import decide
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.handlers import catalog, resources
from swarm_coordinator.handlers.answers import bad, call_result, failed_result, refusal_result
from swarm_coordinator.handlers.asking import Asks, Resumption, asking_result
from swarm_coordinator.handlers.checking import Checked, Checker
from swarm_coordinator.handlers.ports import Caller, Owner, Swarms
from swarm_coordinator.handlers.resources import swarm_of_uri
from swarm_coordinator.handlers.submitting import submitted
from swarm_coordinator.handlers.task_records import POLL_MS, record_of
from swarm_coordinator.handlers.toolset import Answer, FailedTask, Repeated, Tool

__all__ = [
    "ANYWHERE",
    "TASK_TOOLS",
    "WAITING_TOOLS",
    "Repeated",
    "Target",
    "begin_task",
    "call_anywhere",
    "call_on_owner",
    "check",
    "lost_swarm",
    "no_swarm",
    "no_task",
    "permission_of",
    "read_resource",
    "repeatable",
    "resume",
    "swarm_of",
    "swarm_of_uri",
    "target_of",
    "with_key",
]

ANYWHERE = frozenset(tool.spec.name for tool in catalog.TOOLS if tool.anywhere is not None)
"""Tools that any replica answers: they mean no swarm that exists."""

WAITING_TOOLS = frozenset(("task_orchestrate", "agent_task", "task_result"))
"""Tools that can wait for a task, and ask their client what it asks."""

TASK_TOOLS = catalog.TASK_TOOLS
"""Tools that can run as an MCP task."""

_TOOLS = {tool.spec.name: tool for tool in catalog.TOOLS}
_CHECKERS = {tool.spec.name: Checker(tool.spec.input_schema) for tool in catalog.TOOLS}
_encode = msgspec.json.Encoder().encode


def repeatable(tool: str, arguments: msgspec.Raw) -> bool:
    """Whether a call may be made once more when nobody knows what became of it."""
    if _tool(tool).spec.read_only:
        return True
    if tool not in _KEYED or not memoryview(arguments).nbytes:
        return False
    return bool(pick(arguments, "idempotencyKey"))


class Target(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"swarm": "swarmId", "task": "taskId", "agent": "agentId"},
):
    """Which swarm a call means: ``swarm`` if it is named, else that of ``task``, else the default.

    The swarm of a task is in ``TaskRecord.upstream``. An agent's id alone does not say whose it
    is; the default swarm is asked then.
    """

    swarm: str | None = None
    task: str | None = None
    agent: str | None = None


_TARGET = msgspec.json.Decoder(Target)


def permission_of(tool: str) -> str:
    """What a caller needs; "" = the tool rules alone decide, which the gateway has applied.

    Raises:
        MeshError: ``not_found`` for an unknown tool.
    """
    return _tool(tool).spec.permission


def check(tool: str, arguments: msgspec.Raw) -> None:
    """Whether arguments fit the schema of the tool.

    Args:
        tool: bare name.
        arguments: JSON bytes; empty counts as ``{}``.

    Raises:
        MeshError: ``not_found`` for an unknown tool, ``params`` with the place in ``data.where``.
    """
    _tool(tool)
    _CHECKERS[tool].check(arguments)


def with_key(tool: str, params: msgspec.Raw, arguments: msgspec.Raw) -> msgspec.Raw:
    """Arguments with the idempotency key that a client put into ``_meta`` instead.

    Args:
        tool: bare name, known.
        params: of ``tools/call``.
        arguments: among them.

    Raises:
        MeshError: ``params`` for a malformed key.
    """
    if _KEY_MARK not in bytes(params) or tool not in _KEYED:
        return arguments
    meta = pick(params, "_meta").get("_meta", msgspec.Raw(b"{}"))
    try:
        key = _META.decode(meta).key
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise bad("", f'_meta["{IDEMPOTENCY_KEY}"] must be a string') from None
    if not key or not memoryview(arguments).nbytes or pick(arguments, "idempotencyKey"):
        return arguments
    return msgspec.Raw(splice(arguments, {"idempotencyKey": _encode(key)}))


class _Meta(msgspec.Struct):
    key: str = msgspec.field(name=IDEMPOTENCY_KEY, default="")


_META = msgspec.json.Decoder(_Meta)
_KEY_MARK = IDEMPOTENCY_KEY.partition("/")[2].encode()
"""Without the slash, which some JSON writers escape."""
_KEYED = frozenset(("swarm_init", "task_orchestrate", "agent_task"))


def target_of(tool: str, arguments: msgspec.Raw) -> Target:
    """Which swarm is meant, of arguments that ``check`` let pass."""
    if tool in ANYWHERE or not memoryview(arguments).nbytes:
        return Target()
    return _TARGET.decode(arguments)


def swarm_of(tool: str, arguments: msgspec.Raw) -> str:
    """Id of the swarm that the arguments name; "" = the caller's default."""
    return target_of(tool, arguments).swarm or ""


async def call_on_owner(owner: Owner, caller: Caller, tool: str, arguments: msgspec.Raw) -> bytes:
    """Run a tool on the owner of the swarm it means.

    Args:
        owner: of that swarm; that the swarm is the caller's is checked here again.
        caller: verified.
        tool: bare name, not in ``ANYWHERE``.
        arguments: as they came.

    Returns:
        A complete ``tools/call`` result as JSON, ``isError`` included.

    Raises:
        MeshError: ``params`` for bad arguments; what the owner says.
    """
    handler = _tool(tool).on_owner
    if handler is None:
        raise MeshError(ErrorKind.INTERNAL, f"{tool} is no tool of a swarm")
    state = owner.state
    if (state.tenant, state.principal) != (caller.tenant, caller.principal):
        return no_swarm(state.swarm, owner.now_ms())
    checked = _CHECKERS[tool].check(arguments)
    return await _told(owner, tool, checked, handler(owner, caller, checked.arguments))


async def resume(owner: Owner, caller: Caller, tool: str, given: Resumption) -> bytes:
    """A repeat of a call whose task has asked: it gets the answers, and the call waits on.

    Args:
        owner: of the task's swarm.
        caller: verified.
        tool: one of ``WAITING_TOOLS``.
        given: what the repeat brings.

    Returns:
        As ``call_on_owner``.

    Raises:
        MeshError: ``not_found`` for a task that is not the caller's; ``params``.
    """
    state = owner.state
    task = state.tasks.get(given.task)
    if task is None or (state.tenant, task.principal) != (caller.tenant, caller.principal):
        raise MeshError(ErrorKind.NOT_FOUND, "unknown task")
    arguments = msgspec.Raw(_encode({"taskId": given.task, "wait": True}))
    checked = Checked(arguments=arguments, warnings=())
    work = _TOOLS["task_result"].on_owner if tool == "task_result" else None

    async def resumed() -> Answer:
        await owner.commit(decide.answer_input(state, task.id, given.responses, owner.now_ms()))
        if work is not None:
            return await work(owner, caller, arguments)
        return await submitted(owner, caller, task.id, wait=True)

    return await _told(owner, tool, checked, resumed())


async def _told(owner: Owner, tool: str, checked: Checked, work: Awaitable[Answer]) -> bytes:
    """What became of the work of a tool, as its result."""
    try:
        answer = await work
    except Asks as asks:
        return asking_result(asks)
    except Refusal as refusal:
        named = _TARGET.decode(checked.arguments)
        return refusal_result(
            refusal, owner.now_ms(), swarmId=owner.state.swarm, agentId=named.agent or ""
        )
    except FailedTask as failed:
        return failed_result(_encode({"error": failed.error, "timestamp": owner.now_ms()}))
    return _said(tool, answer, checked, owner.now_ms())


async def call_anywhere(swarms: Swarms, caller: Caller, tool: str, arguments: msgspec.Raw) -> bytes:
    """Run a tool of ``ANYWHERE``; as ``call_on_owner``.

    Raises:
        Repeated: ``call_on_owner`` on the owner of that swarm has the answer.
    """
    handler = _tool(tool).anywhere
    if handler is None:
        raise MeshError(ErrorKind.INTERNAL, f"{tool} means a swarm")
    checked = _CHECKERS[tool].check(arguments)
    try:
        answer = await handler(swarms, caller, checked.arguments)
    except Refusal as refusal:
        return refusal_result(refusal, swarms.now_ms())
    return _said(tool, answer, checked, swarms.now_ms())


async def begin_task(
    owner: Owner, caller: Caller, tool: str, params: msgspec.Raw, ttl_ms: int = 0
) -> TaskRecord:
    """A call that shall be an MCP task (``contracts.tasks.create``).

    Args:
        owner: of the swarm it means.
        caller: verified.
        tool: one of ``TASK_TOOLS``.
        params: of ``tools/call``.
        ttl_ms: wanted by the caller. Records of swarm tasks live a week longer than the task may
            take; a shorter wish is granted by no earlier end, which the answer says.

    Returns:
        The record of the task. ``id`` is "" when there is no task (refused, ``dryRun``): then
        ``result`` is the answer to the call.

    Raises:
        MeshError: ``params``; ``method`` for a tool that does not run as a task.
    """
    if tool not in TASK_TOOLS:
        raise MeshError(ErrorKind.METHOD, f"tool {tool} does not run as a task")
    arguments = pick(params, "arguments").get("arguments", msgspec.Raw(b"{}"))
    arguments = with_key(tool, params, msgspec.Raw(splice(arguments, {"wait": b"false"})))
    result = await call_on_owner(owner, caller, tool, arguments)
    structured = pick(result, "structuredContent").get("structuredContent", ABSENT)
    found = _MADE.decode(structured).task_id if memoryview(structured).nbytes else None
    if found is None:
        return no_task(caller, tool, result, owner.now_ms())
    await owner.recorded(found)
    task = owner.state.tasks.get(found)
    if task is not None:
        return record_of(owner.state, task, tool=tool, reports=owner.reported)
    record = await owner.task_record(caller.principal, found)
    if record is None:
        raise MeshError(ErrorKind.LOST, "the task has ended and is forgotten")
    return record


class _Made(msgspec.Struct, rename="camel"):
    task_id: str | None = None


_MADE = msgspec.json.Decoder(_Made)


def no_task(caller: Caller, tool: str, result: bytes, now_ms: int) -> TaskRecord:
    """What ``begin_task`` gives where there is no task: ``result`` is the answer to the call."""
    return TaskRecord(
        id="",
        tenant=caller.tenant,
        principal=caller.principal,
        server=SWARM_SERVER,
        tool=tool,
        status="completed",
        created_ms=now_ms,
        updated_ms=now_ms,
        ttl_ms=0,
        poll_ms=POLL_MS,
        result=msgspec.Raw(result),
    )


def no_swarm(swarm: str, now_ms: int) -> bytes:
    """The result of a call that means a swarm which the caller has not; "" = has none at all."""
    message = f"you have no swarm {swarm[:64]!r}" if swarm else "you have no swarm; call swarm_init"
    return refusal_result(
        Refusal("swarm", "not_found", message, swarmId=swarm[:64] or None), now_ms
    )


def lost_swarm(swarm: str, message: str, now_ms: int) -> bytes:
    """The result of a call that means a swarm which nobody can carry on."""
    return refusal_result(Refusal("swarm", "destroyed", message, swarmId=swarm), now_ms)


async def read_resource(owner: Owner, caller: Caller, uri: str) -> bytes:
    """One resource.

    Returns:
        A complete ``resources/read`` result as JSON.

    Raises:
        MeshError: ``not_found`` with ``data.uri``.
    """
    state = owner.state
    if (state.tenant, state.principal) != (caller.tenant, caller.principal):
        raise resources.unknown(uri)
    return await resources.read(owner, uri)


def _tool(name: str) -> Tool:
    found = _TOOLS.get(name)
    if found is None:
        raise MeshError(ErrorKind.NOT_FOUND, f"unknown tool: {name[:64]}")
    return found


def _said(tool: str, answer: Answer, checked: Checked, now_ms: int) -> bytes:
    unknown = () if _TOOLS[tool].warns else checked.warnings
    warnings = (*unknown, *answer.warnings)
    return call_result(
        _encode(msgspec.structs.replace(answer, warnings=warnings, timestamp=now_ms))
    )
