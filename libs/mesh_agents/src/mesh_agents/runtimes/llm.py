"""An agent with a model: turns, tool calls and budgets of one step.

Tools are those that the agent's ``config.tools`` allows (globs of listed names; none by default),
called with the submitter's rights. A tool that fails is told to the model, which may go on.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal, Protocol, cast

import msgspec

from mcp_proto.agent_runtimes import ModelEntry
from mesh_agents.contract import AgentType, Json, StepFailedError, StepInput, StepOutput
from mesh_agents.runtimes.loading import Loaded
from mesh_agents.runtimes.models import (
    AskSubmitterError,
    Message,
    Model,
    OpenAIModel,
    ScriptedModel,
    SubmitterModel,
    ToolUse,
    Turn,
    as_object,
)
from mesh_agents.runtimes.settings import ModelSource
from mesh_agents.worker.frames import Answered, Ask, Init

__all__ = ["load"]

TOOLS_MAX = 128
"""Tools shown to a model."""
PAGES_MAX = 20
RESULT_CHARS = 40_000
"""How much of a tool's result a model gets."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_ASK_KEY = "model"


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    """``config`` of a spawn."""

    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    system: str | None = None
    tools: tuple[str, ...] | None = None
    output: Literal["text", "json"] = "text"


class _Listed(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    description: str = ""
    input_schema: msgspec.Raw = msgspec.Raw(b'{"type":"object"}')


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    tools: tuple[_Listed, ...] = ()
    next_cursor: str = ""


class _Requesting(Protocol):
    async def request(self, asked: Ask) -> Answered: ...


def load(init: Init) -> Loaded:
    """See ``loading.load``."""
    source = msgspec.json.decode(init.settings, type=ModelSource)
    config = msgspec.json.decode(init.config, type=_Config)
    entry = source.entry
    kind = AgentType(
        name=init.name,
        description=f"Works with the model of {entry.name}.",
        capabilities=("llm",),
        run=partial(_run, entry, _model(source), config),
        slots=entry.slots,
    )
    return Loaded(kind, entry.name)


def _model(source: ModelSource) -> Model:
    match source.entry.kind:
        case "openai":
            return OpenAIModel(source)
        case "client":
            return SubmitterModel()
        case _:
            return ScriptedModel(source.entry)


class _Talk:
    """One conversation and what it has used."""

    def __init__(self, entry: ModelEntry, config: _Config, step: StepInput) -> None:
        self.entry = entry
        self.config = config
        self.step = step
        self.messages: list[Message] = []
        self.tokens = 0
        self.counted = False
        self.turns = 0
        self.calls = 0
        self.names: dict[str, str] = {}
        self.tools: list[Json] = []

    def begin(self) -> None:
        """The first messages, or those of the round that asked the submitter."""
        state = self.step.state
        if isinstance(state, dict) and isinstance(state.get("messages"), list):
            self.messages = cast("list[Message]", state["messages"])
            self.turns = int(cast("int", state.get("turns", 0)))
            return
        system = self.config.system or (
            "You are one agent of a swarm. Do the step you are given and answer with its result, "
            "without asking back."
        )
        self.messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": _prompt(self.step)},
        ]

    def took(self, turn: Turn) -> None:
        """Count a turn and keep it."""
        self.turns += 1
        if turn.tokens is not None:
            self.tokens += turn.tokens
            self.counted = True
        said: Message = {"role": "assistant", "content": turn.text}
        if turn.calls:
            said["tool_calls"] = [
                {
                    "id": one.id,
                    "type": "function",
                    "function": {"name": one.name, "arguments": one.arguments},
                }
                for one in turn.calls
            ]
        self.messages.append(said)
        if self.entry.tokens_max and self.tokens > self.entry.tokens_max:
            raise _over(f"{self.entry.tokens_max} tokens")

    def options(self) -> dict[str, Json]:
        """What the agent asks of its model."""
        config = self.config
        found: dict[str, Json] = {
            "model": config.model,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
        }
        return {name: value for name, value in found.items() if value is not None}


async def _run(entry: ModelEntry, model: Model, config: _Config, step: StepInput) -> StepOutput:
    talk = _Talk(entry, config, step)
    talk.begin()
    if config.tools:
        await _list_tools(talk)
    answer = step.answers.get(_ASK_KEY)
    while True:
        if talk.turns >= entry.turns_max:
            raise _over(f"{entry.turns_max} turns")
        try:
            if answer is not None:
                turn, answer = SubmitterModel.read(answer), None
            else:
                turn = await model.turn(talk.messages, talk.tools, talk.options())
        except AskSubmitterError as ask:
            state: dict[str, Json] = {
                "messages": cast("list[Json]", talk.messages),
                "turns": talk.turns,
            }
            return StepOutput(requests={_ASK_KEY: ask.request}, state=state)
        talk.took(turn)
        if not turn.calls:
            return _output(talk, turn)
        step.report(talk.turns, entry.turns_max, f"turn {talk.turns}")
        for use in turn.calls:
            talk.messages.append(
                {"role": "tool", "tool_call_id": use.id, "content": await _called(talk, use)}
            )


async def _called(talk: _Talk, use: ToolUse) -> str:
    if talk.calls >= talk.entry.tool_calls_max:
        raise _over(f"{talk.entry.tool_calls_max} tool calls")
    name = talk.names.get(use.name)
    if name is None:
        return f"error: there is no tool {use.name}"
    talk.calls += 1
    try:
        answer = await talk.step.call_tool(name, as_object(use.arguments))
    except (ValueError, StepFailedError) as error:
        return f"error: {error}"
    structured = answer.structured
    text = answer.text
    if not text and structured is not msgspec.UNSET:
        text = msgspec.json.encode(structured).decode()
    shown = text if len(text) <= RESULT_CHARS else f"{text[:RESULT_CHARS]}… (cut)"
    return f"error: {shown}" if answer.is_error else shown


async def _list_tools(talk: _Talk) -> None:
    tools = cast("_Requesting", talk.step.tools)
    cursor = ""
    for _ in range(PAGES_MAX):
        params = msgspec.Raw(msgspec.json.encode({"cursor": cursor} if cursor else {}))
        answered = await tools.request(Ask(n=0, call=0, method="tools/list", params=params))
        if answered.error is not None:
            raise StepFailedError(answered.error.message, type="tool")
        page = msgspec.json.decode(answered.result, type=_Page)
        for one in page.tools:
            if _allowed(one.name, talk.config.tools or ()) and len(talk.tools) < TOOLS_MAX:
                _show(talk, one)
        cursor = page.next_cursor
        if not cursor:
            return


def _allowed(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, one) for one in globs)


def _show(talk: _Talk, tool: _Listed) -> None:
    shown = _NOT_IN_NAMES.sub("_", tool.name)[:64]
    if shown in talk.names:
        return
    talk.names[shown] = tool.name
    schema = cast("Json", msgspec.json.decode(tool.input_schema))
    talk.tools.append(
        {
            "type": "function",
            "function": {
                "name": shown,
                "description": tool.description[:1_024],
                "parameters": schema,
            },
        }
    )


def _prompt(step: StepInput) -> str:
    parts: list[str] = []
    prompt = step.payload.get("prompt")
    if isinstance(prompt, str) and prompt:
        parts.append(prompt)
    given = step.payload.get("input", step.payload.get("arguments"))
    if isinstance(given, str):
        parts.append(given)
    elif given is not None:
        parts.append(msgspec.json.encode(given).decode())
    if not parts:
        raise StepFailedError(
            "the step has neither prompt nor input",
            type="input", retryable=False, outcome="not_executed",
        )  # fmt: skip
    return "\n\n".join(parts)


def _output(talk: _Talk, turn: Turn) -> StepOutput:
    tokens = talk.tokens if talk.counted else None
    if talk.config.output == "text":
        return StepOutput(text=turn.text, tokens=tokens)
    text = turn.text.strip()
    if text.startswith("```"):
        text = text.strip("`").removeprefix("json").strip()
    try:
        return StepOutput(structured=msgspec.json.decode(text), tokens=tokens)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StepFailedError(f"the model's answer is no JSON: {error}", type="output") from None


def _over(what: str) -> StepFailedError:
    return StepFailedError(
        f"the step exceeded its budget of {what}", type="budget", retryable=False
    )
