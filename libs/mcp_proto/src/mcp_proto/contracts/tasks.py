"""Contract of durable tasks: the record in ``mesh_tasks``, and what gateways ask of a runner.

A task is a tool call that outlives its caller: tool-runner writes the record before the answer
and executes the call; gateways read the record and speak both task dialects from it. A key is
built from tenant and principal, so a stranger's id and an unknown one are the same miss.
"""

import hashlib

import msgspec

from mcp_proto import buckets, subjects
from mcp_proto.contracts import Operation
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.names import SWARM_COORDINATOR, SWARM_SERVER
from mcp_proto.types.tasks import TERMINAL

__all__ = [
    "IDEMPOTENCY_KEY",
    "IDEMPOTENCY_KEY_CHARS_MAX",
    "POLICIES",
    "PROGRESS_META",
    "TASK_META",
    "Acknowledged",
    "TaskCancel",
    "TaskCreate",
    "TaskEvent",
    "TaskHeld",
    "TaskRecord",
    "TaskUpdate",
    "cancel",
    "create",
    "event_subject",
    "is_task_id",
    "keeper_of",
    "owner_token",
    "part_key",
    "policies_of",
    "policy_of",
    "policy_problem",
    "record_key",
    "update",
]

SERVICE = "tool-runner"

TASK_META = "mesh/task"
"""Member of ``_meta`` with which a modern caller asks for a task: ``true`` or ``{"ttlMs": n}``."""

IDEMPOTENCY_KEY = "mesh/idempotencyKey"
"""Member of ``_meta``: a repeat with the same key has no second effect."""

IDEMPOTENCY_KEY_CHARS_MAX = 128

PROGRESS_META = "mesh/progress"
"""Member of ``_meta`` of a task that works: ``{"progress": n, "total": n or null}``."""

POLICIES = ("never", "optional", "always", "required")
"""Whether a tool runs as a task: never; when the caller asks; whenever the caller can take one;
or only as one."""

_ANY_TOOL = "*"
_ID_PREFIX = "task_"
_OWNER_CHARS = 24


class TaskHeld(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a task that waits for input needs to go on, on whichever runner.

    Attributes:
        params: of the call, as first sent to the server.
        requests: open questions by the key the client knows.
        names: key the client knows → key the server used.
        responses: answers so far, by the server's key.
        state: the server's ``requestState`` (JSON string); ``ABSENT`` = none.
        instance: runner that holds the parked call; "" = any.
        upstream_task: id of the server's own task whose questions these are; "" = none.
    """

    params: msgspec.Raw
    requests: dict[str, msgspec.Raw]
    names: dict[str, str]
    responses: dict[str, msgspec.Raw] = {}
    state: msgspec.Raw = ABSENT
    instance: str = ""
    upstream_task: str = ""


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Value of ``{tenant}.{principal}.{id}`` in ``mesh_tasks``. Times are Unix ms, spans ms.

    Attributes:
        id: handle ``task_…``, unguessable; "" only in the answer to ``create`` when no task was
            made: ``result`` is then that of the call.
        tenant: tenant of the submitter.
        principal: the submitter; nobody else can reach the task.
        server: server that runs the tool.
        tool: the server's own name of it.
        status: one of ``types.tasks.STATUSES``.
        created_ms: when it was made.
        updated_ms: when the record last changed.
        ttl_ms: kept so long from its creation.
        poll_ms: how often to ask.
        message: what it is doing or why it ended, as public text.
        progress: how far it is while it works; None = not told.
        total: where that ends; None = not known.
        owner: runner instance that executes it; "" = nobody does (waits, or has ended).
        boot: run of that instance: the same name after a restart is another owner.
        is_error: the tool itself reported an error; the call is completed all the same.
        result: of the call, once completed; ``ABSENT`` when it lies in parts.
        parts: number of keys that hold a large result.
        error: JSON-RPC error object, once failed.
        used: every key under which something was asked; none is used twice.
        held: while it waits for input.
        upstream: id of the server's own task that is followed; "" = none.
        pad: while it works, makes the record so large that an end can be written over it in a
            full bucket, which takes nothing that grows.
    """

    id: str
    tenant: str
    principal: str
    server: str
    tool: str
    status: str
    created_ms: int
    updated_ms: int
    ttl_ms: int
    poll_ms: int
    message: str = ""
    progress: float | None = None
    total: float | None = None
    owner: str = ""
    boot: str = ""
    is_error: bool = False
    result: msgspec.Raw = ABSENT
    parts: int = 0
    error: msgspec.Raw = ABSENT
    used: tuple[str, ...] = ()
    held: TaskHeld | None = None
    upstream: str = ""
    pad: str = ""

    @property
    def terminal(self) -> bool:
        """Whether nothing can change any more."""
        return self.status in TERMINAL

    @property
    def expires_ms(self) -> int:
        """When it may be forgotten."""
        return self.created_ms + self.ttl_ms


class TaskCreate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Make a task and begin its call.

    Attributes:
        context: the caller's ``Mesh-Ctx``; it decides who the caller is.
        tenant: tenant of the call.
        principal: as in ``context``; believed without one only in development.
        server: server of the tool.
        tool: its own name there.
        params: of ``tools/call``, the server's name of the tool in it.
        ttl_ms: wanted by the caller; 0 = the runner's default.
    """

    context: str
    tenant: str
    principal: str
    server: str
    tool: str
    params: msgspec.Raw
    ttl_ms: int = 0


class TaskUpdate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Answers to what a task asked, by key; unknown keys are ignored."""

    context: str
    tenant: str
    principal: str
    id: str
    responses: dict[str, msgspec.Raw]


class TaskCancel(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Stop a task; one that has ended stays as it is."""

    context: str
    tenant: str
    principal: str
    id: str


class Acknowledged(msgspec.Struct, frozen=True):
    """An answer without content."""


class TaskEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Event ``mesh.v1.{tenant}.evt.task.{id}``: the record has changed; read it.

    ``principal`` is ``owner_token`` of the submitter, so that a gateway knows whose it is.
    """

    principal: str
    status: str


def keeper_of(server: str) -> str:
    """Service that makes the tasks of a server's tools and is asked about them."""
    return SWARM_COORDINATOR if server == SWARM_SERVER else SERVICE


def owner_token(principal: str) -> str:
    """Key token of a principal: names of people stay out of keys and subjects."""
    return hashlib.sha256(principal.encode()).hexdigest()[:_OWNER_CHARS]


def is_task_id(text: str) -> bool:
    """Whether an id can be one of the mesh's own (relayed ids are sealed and look different)."""
    return text.startswith(_ID_PREFIX) and len(text) <= 64 and text.isascii() and "." not in text


def record_key(tenant: str, principal: str, task_id: str) -> str:
    """Key of a record."""
    return buckets.key(tenant, owner_token(principal), task_id)


def part_key(record: str, index: int) -> str:
    """Key of one part of a large result, beside ``record_key``."""
    return f"{record}.part-{index}"


def event_subject(tenant: str, task_id: str) -> str:
    """Subject on which changes of a task are told; ``subjects.ANY`` for all."""
    return subjects.event(tenant, "task", task_id)


def policy_of(policies: dict[str, str], tool: str) -> str:
    """Policy of one tool, from ``Catalog.tasks``: its own, else that of ``*``, else optional."""
    return policies.get(tool) or policies.get(_ANY_TOOL) or "optional"


def policies_of(default: str, per_tool: dict[str, str]) -> dict[str, str]:
    """``Catalog.tasks`` from a definition; what is the same as without saying is left out."""
    named = {_ANY_TOOL: default, **per_tool}
    return named if any(policy != "optional" for policy in named.values()) else {}


def policy_problem(default: str, per_tool: dict[str, str]) -> str | None:
    """What is wrong with the policies of a definition, as public text."""
    for policy in (default, *per_tool.values()):
        if policy not in POLICIES:
            return f"task must be one of {', '.join(POLICIES)}"
    return None


# Served by both keepers of tasks: ``create.at(keeper_of(server))``.
create = Operation(SERVICE, "task-create", TaskCreate, TaskRecord)
update = Operation(SERVICE, "task-update", TaskUpdate, Acknowledged)
cancel = Operation(SERVICE, "task-cancel", TaskCancel, Acknowledged)
