"""What the fixture tools do, written once for both eras.

A tool asks its client through ``Call.ask``. Where the era allows a server to ask (2025-11-25 and
older) that is a real request in mid-call; in 2026-07-28 it ends the call with ``input_required``
and the retry runs the tool again from the top, with the earlier answers at hand. So the server
pinned to the modern era is "bridge A" (input only by multi-round trips), pinned to the legacy era
"bridge B" (input only by push).
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tests.conformance.servers import content
from tests.conformance.servers.content import Json, text

__all__ = [
    "Call",
    "InputRequiredError",
    "MissingCapabilityError",
    "Retry",
    "WrongStateError",
    "ask_prompt",
    "run",
]

_STATE_KEY = b"fixture: every replica of this server has the same key"
_PAUSE_S = 0.05


class MissingCapabilityError(Exception):
    """The client did not declare ``name``; modern servers answer -32021."""

    def __init__(self, name: str) -> None:
        super().__init__(f"this needs the client capability {name}")
        self.name = name


class InputRequiredError(Exception):
    """Ends a modern call; ``result`` is the ``input_required`` result."""

    def __init__(self, result: Json) -> None:
        super().__init__("input required")
        self.result = result


class WrongStateError(Exception):
    """The request state does not carry this server's seal, or the answers have no valid form."""


class Call(Protocol):
    """One call, as the tools see it.

    Attributes:
        capabilities: what the client declared: per session or, in the modern era, per call.
        modern: the era of this call.
        refusal: what ``ask`` raises when the client refuses a question.
    """

    arguments: Json
    capabilities: Json
    modern: bool
    refusal: type[Exception]

    async def progress(self, done: float, total: float) -> None: ...

    async def log(self, words: str) -> None: ...

    async def ask(
        self, requests: dict[str, Json], *, stateful: bool = False
    ) -> dict[str, Json]: ...

    async def changed(self, what: str) -> None: ...

    async def close_stream(self) -> None: ...


class Retry:
    """The answers a modern call brought along, and the state it must give out again."""

    def __init__(self, subject: str, params: Json) -> None:
        self._subject = subject
        sealed = params.get("requestState")
        self.has_state = sealed is not None
        self._known: dict[str, Json] = self._open(sealed) if self.has_state else {}
        fresh = params.get("inputResponses")
        if fresh is not None and not isinstance(fresh, dict):
            raise WrongStateError("inputResponses is no object")
        self._fresh: dict[str, Any] = fresh or {}
        for key, answer in self._fresh.items():
            if not isinstance(answer, dict):
                raise WrongStateError(f"the answer {key} is no object")

    def take(self, requests: dict[str, Json], *, stateful: bool) -> dict[str, Json]:
        """The answers to ``requests``.

        Raises:
            InputRequiredError: one is missing, or came without the state it belongs to.
        """
        have = {**self._known, **self._fresh}
        if requests.keys() <= have.keys() and (self.has_state or not stateful):
            got = {key: have[key] for key in requests}
            self._known |= got
            return got
        result: Json = {"resultType": "input_required", "inputRequests": requests}
        if stateful or self._known:
            result["requestState"] = self._seal()
        raise InputRequiredError(result)

    def _mac(self, body: bytes) -> str:
        return hmac.new(
            _STATE_KEY, self._subject.encode() + b"\0" + body, hashlib.sha256
        ).hexdigest()

    def _seal(self) -> str:
        body = base64.urlsafe_b64encode(json.dumps(self._known).encode())
        return f"{body.decode()}.{self._mac(body)}"

    def _open(self, sealed: Any) -> dict[str, Json]:
        body, _, mac = str(sealed).partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(body.encode()).encode()):
            raise WrongStateError("the request state was changed")
        return json.loads(base64.urlsafe_b64decode(body))


# What is asked ----------------------------------------------------------------------------------


def _elicit(message: str, properties: Json, required: tuple[str, ...] | None = None) -> Json:
    schema: Json = {"type": "object", "properties": properties}
    wanted = list(properties) if required is None else list(required)
    if wanted:
        schema["required"] = wanted
    return {
        "method": "elicitation/create",
        "params": {"message": message, "requestedSchema": schema},
    }


def _sample(words: str, max_tokens: int = 100) -> Json:
    message = {"role": "user", "content": {"type": "text", "text": words}}
    return {
        "method": "sampling/createMessage",
        "params": {"messages": [message], "maxTokens": max_tokens},
    }


def _roots() -> Json:
    return {"method": "roots/list", "params": {}}


_STRING: Json = {"type": "string"}
_NAME = _elicit("What is your name?", {"name": _STRING})
_CONFIRM = _elicit("Please confirm", {"ok": {"type": "boolean"}})
_DEFAULTS: Json = {
    "name": {"type": "string", "description": "User name", "default": "John Doe"},
    "age": {"type": "integer", "description": "User age", "default": 30},
    "score": {"type": "number", "description": "User score", "default": 95.5},
    "status": {
        "type": "string",
        "description": "User status",
        "enum": ["active", "inactive", "pending"],
        "default": "active",
    },
    "verified": {"type": "boolean", "description": "Verification status", "default": True},
}


def _titled(*pairs: tuple[str, str]) -> list[Json]:
    return [{"const": value, "title": title} for value, title in pairs]


_ENUMS: Json = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
    "titledSingle": {
        "type": "string",
        "oneOf": _titled(
            ("value1", "First Option"), ("value2", "Second Option"), ("value3", "Third Option")
        ),
    },
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {
        "type": "array",
        "items": {"type": "string", "enum": ["option1", "option2", "option3"]},
    },
    "titledMulti": {
        "type": "array",
        "items": {
            "anyOf": _titled(
                ("value1", "First Choice"), ("value2", "Second Choice"), ("value3", "Third Choice")
            )
        },
    },
}


def _outcome(answer: Json) -> str:
    return f"action={answer.get('action')}, content={json.dumps(answer.get('content', {}))}"


def _spoken(answer: Json) -> str:
    inside = answer.get("content", {})
    return str(inside.get("text", "")) if isinstance(inside, dict) else ""


# Tools ------------------------------------------------------------------------------------------


async def _failing(call: Call) -> Json:
    return text("This tool intentionally returns an error for testing", isError=True)


async def _logging(call: Call) -> Json:
    await call.log("Tool execution started")
    await asyncio.sleep(_PAUSE_S)
    await call.log("Tool processing data")
    await asyncio.sleep(_PAUSE_S)
    await call.log("Tool execution completed")
    return text("Tool with logging executed successfully")


async def _progress(call: Call) -> Json:
    for done in (0, 50, 100):
        await call.progress(done, 100)
        if done < 100:
            await asyncio.sleep(_PAUSE_S)
    return text("Tool with progress executed successfully")


async def _sampling(call: Call) -> Json:
    answers = await call.ask({"sample": _sample(str(call.arguments.get("prompt", "")))})
    return text(f"LLM response: {_spoken(answers['sample'])}")


async def _elicitation(call: Call) -> Json:
    question = _elicit(
        str(call.arguments.get("message", "")),
        {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
    )
    answers = await call.ask({"user": question})
    return text(f"User response: {_outcome(answers['user'])}")


async def _defaults(call: Call) -> Json:
    answers = await call.ask({"user": _elicit("Please provide user information", _DEFAULTS, ())})
    return text(f"Elicitation completed: {_outcome(answers['user'])}")


async def _enums(call: Call) -> Json:
    answers = await call.ask({"choice": _elicit("Please choose", _ENUMS, ())})
    return text(f"Elicitation completed: {_outcome(answers['choice'])}")


async def _reconnection(call: Call) -> Json:
    await call.log("Before disconnect")
    await call.close_stream()
    await asyncio.sleep(0.2)
    await call.log("After reconnect")
    return text("Reconnection test completed")


async def _capability(call: Call) -> Json:
    if call.modern:
        if "sampling" not in call.capabilities:
            raise MissingCapabilityError("sampling")
        return text("The client declared sampling.")
    await call.ask({"sample": _sample("Say hello")})
    return text("The client's model answered.")


async def _one_line(call: Call) -> Json:
    await call.log("One line of log")
    return text("Logged.")


async def _streaming(call: Call) -> Json:
    await call.progress(0, 100)
    answers = await call.ask({"user_name": _NAME})
    return text(f"Streamed: {_outcome(answers['user_name'])}")


async def _change(call: Call, what: str) -> Json:
    await call.changed(what)
    return text(f"changed: {what}")


async def _ask_name(call: Call) -> Json:
    answers = await call.ask({"user_name": _NAME})
    name = (answers["user_name"].get("content") or {}).get("name", "stranger")
    return text(f"Hello, {name}!")


async def _ask_model(call: Call) -> Json:
    answers = await call.ask({"capital_question": _sample("What is the capital of France?")})
    return text(f"Model said: {_spoken(answers['capital_question'])}")


async def _ask_roots(call: Call) -> Json:
    answers = await call.ask({"client_roots": _roots()})
    uris = [root.get("uri") for root in answers["client_roots"].get("roots", [])]
    return text(f"Roots: {', '.join(map(str, uris))}")


async def _with_state(call: Call) -> Json:
    await call.ask({"confirm": _CONFIRM}, stateful=True)
    return text("state-ok: confirmation received")


async def _three_things(call: Call) -> Json:
    wanted = {
        "user_name": _NAME,
        "greeting": _sample("Generate a greeting", 50),
        "client_roots": _roots(),
    }
    answers = await call.ask(wanted, stateful=True)
    return text(f"All inputs received: {', '.join(sorted(answers))}")


async def _two_rounds(call: Call) -> Json:
    first = _elicit("Step 1: What is your name?", {"name": _STRING})
    second = _elicit("Step 2: What is your favorite color?", {"color": _STRING})
    name = (await call.ask({"step1": first}, stateful=True))["step1"].get("content") or {}
    color = (await call.ask({"step2": second}, stateful=True))["step2"].get("content") or {}
    return text(f"{name.get('name')} likes {color.get('color')}.")


async def _only_declared(call: Call) -> Json:
    wanted = {"sample": _sample("Say hello", 50), "ask": _NAME}
    if call.modern:
        needed = {"sample": "sampling", "ask": "elicitation"}
        wanted = {key: one for key, one in wanted.items() if needed[key] in call.capabilities}
    answers: dict[str, Json] = {}
    if call.modern and wanted:
        answers = await call.ask(wanted, stateful=True)
    elif not call.modern:
        # What a session declared need not hold for each call behind a gateway: ask, take a refusal.
        for key, one in wanted.items():
            try:
                answers |= await call.ask({key: one})
            except call.refusal:
                continue
    return text(f"Asked: {', '.join(sorted(answers))}")


async def _region(call: Call) -> Json:
    return text(f"region={call.arguments.get('region', 'none')}")


async def _schema(call: Call) -> Json:
    return text(json.dumps(call.arguments, sort_keys=True))


_seen: dict[str, str] = {}
"""What became of each ``test_wait``, by its label."""


async def _wait(call: Call) -> Json:
    label = str(call.arguments.get("label", ""))
    _seen[label] = "running"
    await call.progress(0, 1)
    try:
        await asyncio.sleep(float(call.arguments.get("seconds", 30)))
    except asyncio.CancelledError:
        _seen[label] = "cancelled"
        raise
    _seen[label] = "finished"
    return text(f"waited {label}".strip())


async def _note(call: Call) -> Json:
    return text(_seen.get(str(call.arguments.get("label")), "unknown"))


async def _end(call: Call) -> Json:
    os._exit(7)


async def _whoami(call: Call) -> Json:
    told = {"modern": call.modern, "capabilities": call.capabilities}
    return text(json.dumps(told, sort_keys=True), structuredContent=told)


_BEHAVIOUR: dict[str, Callable[[Call], Awaitable[Json]]] = {
    "test_error_handling": _failing,
    "test_tool_with_logging": _logging,
    "test_tool_with_progress": _progress,
    "test_sampling": _sampling,
    "test_elicitation": _elicitation,
    "test_elicitation_sep1034_defaults": _defaults,
    "test_elicitation_sep1330_enums": _enums,
    "test_reconnection": _reconnection,
    "test_missing_capability": _capability,
    "test_logging_tool": _one_line,
    "test_streaming_elicitation": _streaming,
    "test_trigger_tool_change": lambda call: _change(call, "tools"),
    "test_trigger_prompt_change": lambda call: _change(call, "prompts"),
    "test_trigger_resource_update": lambda call: _change(call, "resource"),
    "test_input_required_result_elicitation": _ask_name,
    "test_input_required_result_sampling": _ask_model,
    "test_input_required_result_list_roots": _ask_roots,
    "test_input_required_result_request_state": _with_state,
    "test_input_required_result_multiple_inputs": _three_things,
    "test_input_required_result_multi_round": _two_rounds,
    "test_input_required_result_tampered_state": _with_state,
    "test_input_required_result_capabilities": _only_declared,
    "test_x_mcp_header": _region,
    "json_schema_2020_12_tool": _schema,
    "test_wait": _wait,
    "test_seen": _note,
    "test_end": _end,
    "test_whoami": _whoami,
}


async def run(name: str, call: Call) -> Json | None:
    """Call a tool; None = there is none of that name.

    Raises:
        InputRequiredError: modern era only; its ``result`` is the answer.
        MissingCapabilityError: the client cannot give what the tool needs.
    """
    behave = _BEHAVIOUR.get(name)
    if behave is not None:
        return await behave(call)
    fixed = content.fixed(name)
    if fixed is not None:
        return {"content": fixed}
    if name == content.DYNAMIC_TOOL["name"]:
        return text("dynamic")
    return None


async def ask_prompt(name: str, call: Call) -> list[Json] | None:
    """Messages of a prompt; None = unknown.

    Raises:
        InputRequiredError: as for tools.
    """
    if name != "test_input_required_result_prompt":
        return content.prompt(name, call.arguments)
    question = _elicit("What context should the prompt use?", {"context": _STRING})
    answers = await call.ask({"user_context": question})
    context = (answers["user_context"].get("content") or {}).get("context", "none")
    words = f"Use the following context: {context}"
    return [{"role": "user", "content": {"type": "text", "text": words}}]
