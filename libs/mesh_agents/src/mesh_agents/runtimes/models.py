"""Where an ``llm`` agent gets its next turn from: an endpoint, the submitter, or a script.

A conversation is a list of messages in the shape of the chat completions interface, which every
local and hosted server of that kind takes. The submitter's own model is asked by a sampling
request (MCP), which carries text only.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import aiohttp
import msgspec

from mcp_proto.agent_runtimes import ModelEntry
from mesh_agents.contract import Json, StepFailedError
from mesh_agents.runtimes.settings import ModelSource

__all__ = [
    "AskSubmitterError",
    "Model",
    "OpenAIModel",
    "ScriptedModel",
    "SubmitterModel",
    "ToolUse",
    "Turn",
]

RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0
"""Waits between attempts where the endpoint names none; doubling, with jitter."""
BODY_MAX = 8 * 1024 * 1024
"""Longest answer of an endpoint, in bytes."""
_SAID_MAX = 500
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

Message = dict[str, Json]


class ToolUse(msgspec.Struct, frozen=True):
    """A tool that the model wants called; ``arguments`` is JSON text as it wrote it."""

    id: str
    name: str
    arguments: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a model; ``tokens`` of this turn in all, None = not counted."""

    text: str = ""
    calls: tuple[ToolUse, ...] = ()
    tokens: int | None = None


class AskSubmitterError(Exception):
    """The turn must come from the submitter: ``request`` is what to ask it."""

    def __init__(self, request: dict[str, Json]) -> None:
        super().__init__("the submitter's model is asked")
        self.request = request


class Model(Protocol):
    """A source of turns."""

    async def turn(
        self, messages: Sequence[Message], tools: Sequence[Json], options: Mapping[str, Json]
    ) -> Turn:
        """The next turn.

        Args:
            messages: the conversation so far.
            tools: definitions of functions.
            options: ``model``, ``temperature``, ``max_tokens`` where the agent names them.

        Raises:
            StepFailedError: type ``model``.
            AskSubmitterError: see there.
        """
        ...


class ScriptedModel:
    """Turns written down beforehand, in order; for tests."""

    def __init__(self, entry: ModelEntry) -> None:
        self._replies = entry.replies

    async def turn(
        self, messages: Sequence[Message], tools: Sequence[Json], options: Mapping[str, Json]
    ) -> Turn:
        """See ``Model``: the reply whose number is that of the model's turns so far."""
        del tools, options
        at = sum(1 for one in messages if one.get("role") == "assistant")
        if at >= len(self._replies):
            raise StepFailedError("the script has no further turn", type="model", retryable=False)
        reply = self._replies[at]
        calls = (ToolUse(f"call-{at}", reply.tool, reply.arguments),) if reply.tool else ()
        return Turn(text=reply.text, calls=calls, tokens=0)


class SubmitterModel:
    """The model of whoever submitted the task, asked through the task's ``inputRequests``."""

    async def turn(
        self, messages: Sequence[Message], tools: Sequence[Json], options: Mapping[str, Json]
    ) -> Turn:
        """See ``Model``; always raises ``AskSubmitterError``."""
        del tools
        system = "\n".join(str(one["content"]) for one in messages if one["role"] == "system")
        asked: list[Json] = [
            {"role": one["role"], "content": {"type": "text", "text": one["content"]}}
            for one in messages
            if one["role"] in {"user", "assistant"}
        ]
        params: dict[str, Json] = {
            "messages": asked,
            "maxTokens": options.get("max_tokens") or 1_024,
        }
        if system:
            params["systemPrompt"] = system
        if "temperature" in options:
            params["temperature"] = options["temperature"]
        raise AskSubmitterError({"method": "sampling/createMessage", "params": params})

    @staticmethod
    def read(answer: Json) -> Turn:
        """The turn in a ``CreateMessageResult``.

        Raises:
            StepFailedError: it is none.
        """
        content = answer.get("content") if isinstance(answer, dict) else None
        blocks = content if isinstance(content, list) else [content]
        texts = [str(one.get("text", "")) for one in blocks if isinstance(one, dict)]
        if not any(texts):
            raise StepFailedError(
                "the submitter's model gave no text", type="model", retryable=False
            )  # fmt: skip
        return Turn(text="\n".join(texts))


class _Function(msgspec.Struct):
    name: str
    arguments: str = "{}"


class _Call(msgspec.Struct):
    id: str
    function: _Function


class _Said(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Said


class _Used(msgspec.Struct):
    total_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Used | None = None


_COMPLETION = msgspec.json.Decoder(_Completion)


class OpenAIModel:
    """An endpoint that speaks OpenAI's chat completions.

    Args:
        source: where it is, and its token.
    """

    def __init__(self, source: ModelSource) -> None:
        self._entry = source.entry
        self._url = f"{source.entry.url.rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {source.key}"} if source.key else {}
        self._session: aiohttp.ClientSession | None = None

    async def turn(
        self, messages: Sequence[Message], tools: Sequence[Json], options: Mapping[str, Json]
    ) -> Turn:
        """See ``Model``."""
        body: dict[str, object] = {"messages": messages, **options}
        if "model" not in body and self._entry.model:
            body["model"] = self._entry.model
        if tools:
            body["tools"] = tools
        data = msgspec.json.encode(body)
        failures = 0
        while True:
            try:
                return _turn(await self._post(data))
            except _AgainError as error:
                if failures >= self._entry.retries:
                    raise StepFailedError(str(error), type="model") from None
                await asyncio.sleep(_wait_s(error, failures))
                failures += 1

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, data: bytes) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._entry.request_s), trust_env=True
            )
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            async with self._session.post(self._url, data=data, headers=headers) as response:
                body = await response.content.read(BODY_MAX + 1)
                if response.status in _AGAIN:
                    raise _AgainError(
                        f"the model's endpoint answers {response.status}: {_said(body)}",
                        response.headers.get("Retry-After", ""),
                    )
                if response.status != 200:
                    raise StepFailedError(
                        f"the model's endpoint answers {response.status}: {_said(body)}",
                        type="model", retryable=False,
                    )  # fmt: skip
                while not response.content.at_eof() and len(body) <= BODY_MAX:
                    body += await response.content.read(BODY_MAX + 1 - len(body))
        except TimeoutError:
            message = f"the model's endpoint did not answer within {self._entry.request_s:g} s"
            raise _AgainError(message) from None
        except aiohttp.ClientError as error:
            raise _AgainError(f"the model's endpoint cannot be reached: {error}") from None
        if len(body) > BODY_MAX:
            raise StepFailedError("the model's answer is too long", type="model", retryable=False)
        return body


class _AgainError(Exception):
    def __init__(self, message: str, wait: str = "") -> None:
        super().__init__(message)
        self.wait = wait


def _turn(body: bytes) -> Turn:
    try:
        completion = _COMPLETION.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _AgainError(f"the model's answer cannot be read: {error}") from None
    if not completion.choices:
        raise _AgainError("the model's answer has no choice")
    said = completion.choices[0].message
    calls = tuple(
        ToolUse(one.id, one.function.name, one.function.arguments or "{}")
        for one in said.tool_calls or ()
    )
    tokens = completion.usage.total_tokens if completion.usage else None
    return Turn(text=said.content or "", calls=calls, tokens=tokens)


def _wait_s(error: _AgainError, failures: int) -> float:
    if error.wait.strip().isdigit():
        return float(min(int(error.wait), 600))  # the attempt's own time bounds it further
    full = min(RETRY_MAX_S, RETRY_FIRST_S * 2**failures)
    return full * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret


def _said(body: bytes) -> str:
    return " ".join(body[: 4 * _SAID_MAX].decode(errors="replace").split())[:_SAID_MAX]


def as_object(text: str) -> dict[str, Json]:
    """Arguments as a model wrote them.

    Raises:
        ValueError: no JSON object.
    """
    value: object = msgspec.json.decode(text.encode() or b"{}")
    if not isinstance(value, dict):
        raise ValueError("the arguments are no JSON object")  # noqa: TRY004 - of a value, not a type
    return cast("dict[str, Json]", value)
