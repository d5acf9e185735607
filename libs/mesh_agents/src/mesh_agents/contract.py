"""What an agent type is to the host that runs it, and what one step sees of the world.

Types (``mesh_agents.types.TYPES``) and functions of users are written against this module alone;
it imports nothing of the host, so that a worker process starts fast.

Where ``run`` is executed: a coroutine function runs in the worker's event loop and is cancelled
like any coroutine. A plain function runs in a process of its own, forked from the worker for this
step: it may block, use all of a core and start programs; cancel sends SIGTERM to its process
group and SIGKILL 5 s later, and its crash ends the step, not the agent.
"""

import msgspec

from mesh_sdk.swarm.callables import Hear, Run
from mesh_sdk.swarm.steps import (
    Ballot,
    Json,
    Letter,
    Outcome,
    Report,
    StepFailedError,
    StepInput,
    StepKind,
    StepOutput,
    StepRejectedError,
    ToolAnswer,
    Tools,
    ballot,
)

__all__ = [
    "AgentType",
    "Ballot",
    "Hear",
    "Json",
    "Letter",
    "Outcome",
    "Report",
    "Run",
    "StepFailedError",
    "StepInput",
    "StepKind",
    "StepOutput",
    "StepRejectedError",
    "ToolAnswer",
    "Tools",
    "ballot",
]

SLOTS = 1
"""Steps at once of a type that does not say otherwise."""


class AgentType(msgspec.Struct, frozen=True, kw_only=True):
    """A built-in kind of agent.

    Attributes:
        name: as in ``agent_spawn``.
        description: what it does, for people and models.
        capabilities: what its agents can do.
        run: does one step; coroutine function or plain function (see the module).
        slots: steps at once.
        kinds: kinds of steps it takes; others are ``rejected`` by the worker.
        hear: gets letters; its value is the reply where one is expected. None = letters are
            kept for nobody: they are answered ``undeliverable``.
    """

    name: str
    description: str
    capabilities: tuple[str, ...]
    run: Run
    slots: int = SLOTS
    kinds: frozenset[str] = frozenset({"tool", "prompt", "call", "vote", "validate", "merge"})
    hear: Hear | None = None
