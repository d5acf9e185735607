"""Contract between the owner of a swarm and the hosts that run its agents.

The owner's log is the only stored plane: work and results travel as requests, and whatever is lost
on the way is found by the next beat, which names what an agent has (ADR 0037). A host is a program
that runs agents: the mesh's own (``mesh agent-host``), or one external process with one agent.

Who sends what is in the subject, so that the broker's rights decide it: a host may speak as itself
only, and the owner believes of an agent what that agent's host says.
"""

from typing import Literal

import msgspec

from mcp_proto import subjects
from mcp_proto.jsonrpc import ABSENT

__all__ = [
    "BEAT_S", "LOST_S", "AgentBeat", "AgentCommand", "Attach", "Attached", "Ballot", "Beat",
    "BeatAnswer", "Bid", "BidRequest", "Commanded", "Mail", "Results", "ResultsTaken",
    "RuntimeKind", "Spawn", "Spawned", "StepError", "Usage", "Work", "WorkItem", "WorkProgress",
    "WorkResult", "WorkTaken", "attach_subject", "beat_subject", "bid_subject", "command_subject",
    "owner_subject", "progress_subject", "result_subject", "spawn_subject", "work_subject",
]  # fmt: skip

HOST = "agent-host"
"""Service name of hosts: their instances in ``mesh_instances``, their broker rights."""

BEAT_S = 5.0
"""Interval of beats to the owner of each swarm that a host has agents of."""
LOST_S = 15.0
"""Three beats missed: the agent is lost."""

RuntimeKind = Literal[
    "tool", "function", "command", "llm", "external", "synadia", "a2a", "vm", "container"
]
Status = Literal["ok", "error", "rejected", "input_required"]


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """JSON, camelCase; unknown fields are ignored, so that versions can meet."""


# Subjects


def owner_subject(tenant: str, swarm: str) -> str:
    """The owner of a swarm, for other replicas: ``OwnerCall``. Its only subscriber is the owner."""
    return subjects.instance(tenant, swarm, "swarm")


def _from_host(tenant: str, swarm: str, verb: str, host: str) -> str:
    sender = host if host is subjects.ANY else subjects.encode_token(host)
    return f"{subjects.instance(tenant, swarm, verb)}.{sender}"


def attach_subject(tenant: str, swarm: str, host: str) -> str:
    """An external process says with its claim token which agent it is: ``Attach``."""
    return _from_host(tenant, swarm, "attach", host)


def beat_subject(tenant: str, swarm: str, host: str) -> str:
    """``Beat`` → ``BeatAnswer``."""
    return _from_host(tenant, swarm, "beat", host)


def result_subject(tenant: str, swarm: str, host: str) -> str:
    """``Results`` → ``ResultsTaken``, answered once the log has them."""
    return _from_host(tenant, swarm, "result", host)


def progress_subject(tenant: str, swarm: str, host: str) -> str:
    """``WorkProgress``, published; nobody insists on it."""
    return _from_host(tenant, swarm, "progress", host)


def bid_subject() -> str:
    """``BidRequest`` to every host at once; each answers with a ``Bid`` or not at all."""
    return subjects.service(HOST, "bid")


def spawn_subject(tenant: str, host: str) -> str:
    """``Spawn`` → ``Spawned``."""
    return subjects.instance(tenant, host, "spawn")


def work_subject(tenant: str, host: str) -> str:
    """``Work`` → ``WorkTaken``."""
    return subjects.instance(tenant, host, "work")


def command_subject(tenant: str, host: str) -> str:
    """``AgentCommand`` → ``Commanded``."""
    return subjects.instance(tenant, host, "agent")


# Spawning


class BidRequest(_Wire, frozen=True, kw_only=True):
    """Who can run such an agent?

    Attributes:
        tenant: whose.
        swarm: of which swarm.
        agent_type: ``researcher``, ``function`` …
        runtime: kind wanted; "" = what the type says.
        cpu: cores; 0 = no wish.
        memory_bytes: 0 = no wish.
        gpu: whether it needs one.
        local: only hosts on the node of the coordinator (``node``).
        node: name of that node.
    """

    tenant: str
    swarm: str
    agent_type: str
    runtime: str = ""
    cpu: float = 0.0
    memory_bytes: int = 0
    gpu: bool = False
    local: bool = False
    node: str = ""


class Bid(_Wire, frozen=True, kw_only=True):
    """A host's offer, or why it makes none.

    Attributes:
        host: instance id.
        bid: one-use id, valid for 5 s; "" = refused.
        refused: reason (``no_runtime``, ``no_gpu``, ``no_model_source``, ``limit``), "" = offer.
        message: the reason for people.
        free: share of the host that is free, 0..1; the highest wins.
        types: agent types this host runs.
        capabilities: of those types that have any of their own.
    """

    host: str
    bid: str = ""
    refused: str = ""
    message: str = ""
    free: float = 0.0
    types: tuple[str, ...] = ()
    capabilities: dict[str, tuple[str, ...]] = {}


class Spawn(_Wire, frozen=True, kw_only=True):
    """Start an agent.

    Attributes:
        bid: of the winning ``Bid``.
        swarm: whose it is.
        agent: its id.
        epoch: counts the lives of this agent; results of an older life are late.
        agent_type: built-in type, or name of a runtime kind.
        name: for people.
        capabilities: declared beside those of the type.
        config: ``config`` of ``agent_spawn`` (JSON object); ``ABSENT`` = none.
        cpu: cores; 0 = no limit.
        memory_bytes: 0 = no limit.
        owner_epoch: of the owner that asks.
    """

    bid: str
    swarm: str
    agent: str
    epoch: int
    agent_type: str
    name: str = ""
    capabilities: tuple[str, ...] = ()
    config: msgspec.Raw = ABSENT
    cpu: float = 0.0
    memory_bytes: int = 0
    owner_epoch: int = 0


class Spawned(_Wire, frozen=True, kw_only=True):
    """The process runs, or why not. Numbers are measured, or None.

    Attributes:
        refused: as in ``Bid``, or ``failed``; "" = it runs.
        message: the reason for people.
        runtime: kind that runs it.
        model_source: "" = none.
        capabilities: those of the type and the declared ones.
        slots: steps at once.
        pid: of the agent's process; None = it has none of its own on this host.
        spawn_ms: until it said that it is ready.
        memory_bytes: resident memory at that moment.
        limited: limits are enforced by the operating system.
        limits_reason: why they are not.
    """

    refused: str = ""
    message: str = ""
    runtime: str = ""
    model_source: str = ""
    capabilities: tuple[str, ...] = ()
    slots: int = 1
    pid: int | None = None
    spawn_ms: float | None = None
    memory_bytes: int | None = None
    limited: bool = False
    limits_reason: str = ""


class Attach(_Wire, frozen=True, kw_only=True):
    """An external process takes the place of an agent that was spawned with ``external``.

    ``boot`` tells lives of the same program apart, ``node`` is its machine, as in its beats.
    """

    agent: str
    claim: str
    boot: str
    capabilities: tuple[str, ...] = ()
    slots: int = 1
    node: str = ""


class Attached(_Wire, frozen=True, kw_only=True):
    """``refused``: reason; "" = taken. ``epoch`` of this life."""

    refused: str = ""
    epoch: int = 0
    owner_epoch: int = 0
    beat_s: float = BEAT_S


# Work


class WorkItem(_Wire, frozen=True, kw_only=True):
    """One attempt of one step.

    Attributes:
        agent: who shall do it.
        epoch: life of the agent it is meant for.
        item: ``{task}.{step}-{attempt}``, unique for ever; a repeat of it is the same work.
        task: task id.
        phase: phase of the plan.
        step: step id within the task.
        attempt: from 1.
        kind: what is to be done.
        payload: JSON object, by kind: ``tool`` {"tool", "arguments"}; ``prompt`` {"prompt",
            "input"}; others {"input", "prompt"?}.
        idempotency: key that stays the same over attempts.
        idempotent: may run twice.
        context: ``Mesh-Ctx`` of the submitter's delegated grant; "" = none.
        timeout_ms: for this attempt, from its receipt.
        deadline_ms: Unix time after which nobody wants it.
    """

    agent: str
    epoch: int
    item: str
    task: str
    phase: str
    step: str
    attempt: int
    kind: Literal["tool", "prompt", "call", "vote", "validate", "merge"]
    payload: msgspec.Raw
    idempotency: str = ""
    idempotent: bool = True
    context: str = ""
    timeout_ms: int = 300_000
    deadline_ms: int = 0


class Work(_Wire, frozen=True, kw_only=True):
    """Work for agents of one host."""

    swarm: str
    owner_epoch: int
    items: tuple[WorkItem, ...]


class WorkTaken(_Wire, frozen=True, kw_only=True):
    """``refused``: item → reason (``unknown_agent``, ``epoch``, ``busy``, ``stale_owner``)."""

    refused: dict[str, str] = {}


class StepError(_Wire, frozen=True, kw_only=True):
    """Why a step failed.

    Attributes:
        type: word, e.g. ``timeout``, ``exit``, ``tool``, ``input``, ``limit``, ``crash``.
        message: public text.
        retryable: whether another attempt could help.
        outcome: ``not_executed``, ``unknown`` or ``executed``.
    """

    type: str
    message: str
    retryable: bool = True
    outcome: Literal["not_executed", "unknown", "executed"] = "executed"


class Ballot(_Wire, frozen=True, kw_only=True):
    """A vote; ``choice`` is any JSON value."""

    choice: msgspec.Raw = ABSENT
    confidence: float | None = None
    abstain: bool = False
    rationale: str = ""


class Usage(_Wire, frozen=True, kw_only=True):
    """What a step took; None = not measured."""

    wall_ms: float | None = None
    cpu_ms: float | None = None
    tokens: int | None = None
    tool_calls: int | None = None


class WorkResult(_Wire, frozen=True, kw_only=True):
    """How one attempt ended.

    Attributes:
        agent: who did it.
        epoch: its life.
        item: as in ``WorkItem``.
        status: ``rejected`` = cannot do it, give it to another; not a failure.
        structured: JSON value; ``ABSENT`` = none.
        text: text content; "" = none.
        ballot: a vote, where one was asked for.
        usage: measured.
        artifacts: URIs of what was stored.
        error: with ``error`` and ``rejected``.
        requests: with ``input_required``: open questions by key (MCP ``inputRequests``).
        state: with ``input_required``: what the agent needs to go on (JSON value).
    """

    agent: str
    epoch: int
    item: str
    status: Status
    structured: msgspec.Raw = ABSENT
    text: str = ""
    ballot: Ballot | None = None
    usage: Usage = Usage()
    artifacts: tuple[str, ...] = ()
    error: StepError | None = None
    requests: dict[str, msgspec.Raw] = {}
    state: msgspec.Raw = ABSENT


class Results(_Wire, frozen=True, kw_only=True):
    """Results of one host, oldest first; repeated until taken."""

    results: tuple[WorkResult, ...]


class ResultsTaken(_Wire, frozen=True, kw_only=True):
    """``taken``: items that need not be sent again, counted or not."""

    owner_epoch: int
    taken: tuple[str, ...]


class WorkProgress(_Wire, frozen=True, kw_only=True):
    """How far an attempt is; it also extends nothing: the attempt's time is fixed."""

    agent: str
    item: str
    progress: float
    total: float | None = None
    message: str = ""


# Beats, commands, mail


class AgentBeat(_Wire, frozen=True, kw_only=True):
    """One agent in a beat: everything it has, so that what was lost on the way is found."""

    agent: str
    epoch: int
    state: Literal["starting", "active", "draining", "frozen", "gone"]
    items: tuple[str, ...] = ()
    pid: int | None = None
    memory_bytes: int | None = None
    cpu_ms: float | None = None


class Beat(_Wire, frozen=True, kw_only=True):
    """What a host says of its agents of one swarm, every ``BEAT_S`` and at each change."""

    boot: str
    node: str
    agents: tuple[AgentBeat, ...]


class BeatAnswer(_Wire, frozen=True, kw_only=True):
    """What the owner wants ended: attempts (``cancel``) and agents (``stop``)."""

    owner_epoch: int
    cancel: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()


class Mail(_Wire, frozen=True, kw_only=True):
    """A message to an agent."""

    id: str
    sender: str
    type: str
    action: str = ""
    params: msgspec.Raw = ABSENT
    hops: int = 0
    expect_reply: bool = False
    timeout_ms: int = 0


class AgentCommand(_Wire, frozen=True, kw_only=True):
    """To agents of one host. Each part may be empty.

    Attributes:
        swarm: whose agents.
        owner_epoch: a host ignores owners older than the newest it has seen.
        agent: for ``drain``, ``stop`` and ``mail``.
        cancel: items to cancel, of any agent of the swarm.
        drain: finish what runs, take nothing new.
        stop: end the process (SIGTERM to its group, SIGKILL after 5 s).
        ping: answer whether the agent's process lives and reacts.
        mail: deliver it; the answer says how that went.
        answers: item → answers to its ``requests``, with which it goes on.
    """

    swarm: str
    owner_epoch: int
    agent: str = ""
    cancel: tuple[str, ...] = ()
    drain: bool = False
    stop: bool = False
    ping: bool = False
    mail: Mail | None = None
    answers: dict[str, dict[str, msgspec.Raw]] = {}


class Commanded(_Wire, frozen=True, kw_only=True):
    """What became of a command.

    Attributes:
        known: the host has the agent.
        alive: with ``ping``: it answered.
        exited: with ``stop``: exit status once it is gone; None = it had no process.
        mail: ``delivered``, ``replied`` or ``undeliverable``.
        reply: with ``replied``.
        message: the reason for people.
    """

    known: bool = True
    alive: bool | None = None
    exited: int | None = None
    mail: str = ""
    reply: msgspec.Raw = ABSENT
    message: str = ""
