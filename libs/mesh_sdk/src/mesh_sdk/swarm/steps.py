"""What one step of an agent sees of the world, and what it leaves.

Functions of users and built-in types are written against this module alone; it imports nothing
of the bus, so that the process of an agent starts fast.
"""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import msgspec

from mcp_proto.contracts.swarm import Ballot

__all__ = [
    "Ballot",
    "Json",
    "Letter",
    "Outcome",
    "Report",
    "StepFailedError",
    "StepInput",
    "StepKind",
    "StepOutput",
    "StepRejectedError",
    "ToolAnswer",
    "Tools",
    "ballot",
]

Json = bool | int | float | str | None | list["Json"] | dict[str, "Json"]
"""A decoded JSON value."""

StepKind = Literal["tool", "prompt", "call", "vote", "validate", "merge"]
Outcome = Literal["not_executed", "unknown", "executed"]


class ToolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a tool called by a step.

    Attributes:
        structured: ``structuredContent``; ``msgspec.UNSET`` = none.
        text: the text blocks of ``content``, joined by line ends.
        content: the content blocks as they came.
        is_error: the tool says that it failed.
    """

    structured: Json | msgspec.UnsetType = msgspec.UNSET
    text: str = ""
    content: tuple[Json, ...] = ()
    is_error: bool = False


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A message to the agent, by another agent or by the submitter."""

    id: str
    sender: str
    type: str
    action: str = ""
    params: Json = None
    expect_reply: bool = False


class Tools(Protocol):
    """How a step reaches the tools of the mesh; the worker has one, tests make their own."""

    async def call(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        """See ``StepInput.call_tool``."""
        ...

    def call_blocking(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        """See ``StepInput.call_tool_blocking``."""
        ...


Report = Callable[[float, float | None, str], None]
"""Takes progress, total (None = unknown) and a message."""


class StepInput(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one step, as ``run`` sees it.

    Attributes:
        kind: what is to be done.
        payload: JSON object, by kind: ``tool`` {"tool", "arguments"}; ``prompt`` {"prompt",
            "input"}; the others {"input", "prompt"?}.
        workdir: empty directory of this attempt, removed after it. Absolute path.
        config: ``config`` of ``agent_spawn``; {} = none.
        agent: id of the agent.
        task: id of the task.
        step: id of the step within the task.
        attempt: from 1.
        idempotency: key that stays the same over attempts of the step.
        timeout_s: what was left for this attempt when it began.
        answers: answers to the ``requests`` of the previous round, by key; {} in the first.
        state: what the previous round left in ``StepOutput.state``; None in the first.
        tools: behind ``call_tool``; None = no tools.
        reported: behind ``report``; None = nobody listens.
    """

    kind: StepKind
    payload: dict[str, Json]
    workdir: str
    config: dict[str, Json] = {}
    agent: str = ""
    task: str = ""
    step: str = ""
    attempt: int = 1
    idempotency: str = ""
    timeout_s: float = 300.0
    answers: dict[str, Json] = {}
    state: Json = None
    tools: Tools | None = None
    reported: Report | None = None

    async def call_tool(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        """Call a tool of the mesh with the rights of the submitter (coroutines only).

        Args:
            name: as listed by the mesh (``fs__read``, ``kv_get``).
            arguments: its arguments.

        Raises:
            StepFailedError: the mesh refused or lost the call; ``type`` ``tool``. A tool that
                says that it failed is an answer with ``is_error``.
        """
        if self.tools is None:
            raise StepFailedError("this step has no tools", type="tool", outcome="not_executed")
        return await self.tools.call(name, arguments)

    def call_tool_blocking(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        """The same for plain functions, which have a process of their own.

        Raises:
            StepFailedError: as ``call_tool``.
        """
        if self.tools is None:
            raise StepFailedError("this step has no tools", type="tool", outcome="not_executed")
        return self.tools.call_blocking(name, arguments)

    def report(self, progress: float, total: float | None = None, message: str = "") -> None:
        """Say how far it is; never blocks, and only the newest of a burst is sent."""
        if self.reported is not None:
            self.reported(progress, total, message)


class StepOutput(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended well, or with questions.

    Attributes:
        structured: JSON value (or anything that msgspec encodes); ``UNSET`` = none.
        text: for people and models.
        ballot: where a vote was asked for (see ``ballot``).
        tokens: tokens of a model; None = none was used, or not known.
        artifacts: URIs of what was stored.
        requests: open questions by key (MCP ``inputRequests``); not empty = the step waits for
            answers and is run again with ``answers`` and ``state``.
        state: JSON value for that next round.
    """

    structured: object = msgspec.UNSET
    text: str = ""
    ballot: Ballot | None = None
    tokens: int | None = None
    artifacts: tuple[str, ...] = ()
    requests: Mapping[str, Json] = {}
    state: Json = None


class StepFailedError(Exception):
    """The step failed. Any other exception of ``run`` is a failure of type ``error``."""

    def __init__(
        self,
        message: str,
        *,
        type: str = "error",  # noqa: A002 - the word of the wire
        retryable: bool = True,
        outcome: Outcome = "executed",
    ) -> None:
        """Args: ``type`` a word (``input``, ``exit``, ``tool``, ``limit`` …); the rest as wire."""
        super().__init__(message)
        self.message = message
        self.type = type
        self.retryable = retryable
        self.outcome: Outcome = outcome


class StepRejectedError(Exception):
    """This agent cannot do such a step; another one shall. Not counted as a failure."""

    def __init__(self, message: str) -> None:
        """``message`` is public."""
        super().__init__(message)
        self.message = message


def ballot(
    choice: Json,
    *,
    confidence: float | None = None,
    abstain: bool = False,
    rationale: str = "",
) -> Ballot:
    """A vote for ``choice``; ``confidence`` is 0..1."""
    return Ballot(
        choice=msgspec.Raw(msgspec.json.encode(choice)),
        confidence=confidence,
        abstain=abstain,
        rationale=rationale,
    )
