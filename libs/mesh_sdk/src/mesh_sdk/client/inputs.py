"""Answers to what a server asks in mid-call: the user, a model, the roots of the client.

In this revision a server asks by its result; the client answers by repeating the call. Which
questions may be asked is declared on every request, from the handlers that are there.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from mcp_proto.errors import ErrorKind, Outcome
from mcp_proto.limits import INPUT_S
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.settings import LOGGER

__all__ = [
    "ElicitAnswer",
    "Elicitation",
    "InputRequired",
    "Inputs",
    "OnElicit",
    "OnSample",
    "Question",
    "Roots",
    "Sampling",
]

QUESTIONS_MAX = 32
"""Questions in one result."""
_log = logging.getLogger(LOGGER)


class Elicitation(msgspec.Struct, frozen=True, rename="camel"):
    """A question to the user.

    Attributes:
        message: what is asked.
        mode: ``form``, or ``url``: the user is to open ``url``.
        requested_schema: JSON Schema of the form, flat.
        url: of mode ``url``.
    """

    message: str
    mode: str = "form"
    requested_schema: dict[str, Any] = {}
    url: str = ""


class ElicitAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """``action``: ``accept``, ``decline`` or ``cancel``; ``content`` only with ``accept``."""

    action: str
    content: dict[str, Any] | None = None


class Sampling(msgspec.Struct, frozen=True, rename="camel"):
    """A question to a model.

    Attributes:
        messages: ``{"role", "content"}`` each.
        max_tokens: bound of the answer.
        raw: all of the request.
    """

    messages: tuple[dict[str, Any], ...]
    max_tokens: int = 0
    system_prompt: str = ""
    temperature: float | None = None
    raw: dict[str, Any] = {}


ElicitReply: TypeAlias = ElicitAnswer | Mapping[str, Any] | None
OnElicit: TypeAlias = Callable[[Elicitation], ElicitReply | Awaitable[ElicitReply]]
"""Gives the content of the form (accept), None (decline), or an ``ElicitAnswer``."""
SampleReply: TypeAlias = str | Mapping[str, Any]
OnSample: TypeAlias = Callable[[Sampling], SampleReply | Awaitable[SampleReply]]
"""Gives the model's text, or a whole ``CreateMessageResult`` object."""
Roots: TypeAlias = Sequence[str | Path] | Callable[[], Any]
"""Folders or ``file://`` URIs that servers may work in; a callable (also async) is asked anew."""


class Question(msgspec.Struct):
    """One thing that a server asks."""

    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class InputRequired(msgspec.Struct, rename="camel"):
    """A result that asks."""

    input_requests: dict[str, Question] = {}
    request_state: msgspec.Raw = msgspec.Raw(b"")


class Inputs:
    """The handlers of a client.

    Args:
        on_elicit: asks the user; None = servers cannot.
        on_sample: asks a model; None = servers cannot.
        roots: where servers may work; None = not said.
        wait_s: how long one handler may take.
    """

    def __init__(
        self,
        on_elicit: OnElicit | None = None,
        on_sample: OnSample | None = None,
        roots: Roots | None = None,
        *,
        wait_s: float = INPUT_S,
    ) -> None:
        self._on_elicit = on_elicit
        self._on_sample = on_sample
        self._roots = roots
        self._wait_s = wait_s

    @property
    def capabilities(self) -> dict[str, Any]:
        """``clientCapabilities`` of every request."""
        declared: dict[str, Any] = {}
        if self._on_elicit is not None:
            declared["elicitation"] = {"form": {}, "url": {}}
        if self._on_sample is not None:
            declared["sampling"] = {}
        if self._roots is not None:
            declared["roots"] = {}
        return declared

    async def answers(self, questions: Mapping[str, Question]) -> dict[str, Any]:
        """An answer to each question, under its key.

        Raises:
            MeshCallError: a handler failed or there is none; the call may have begun.
        """
        if len(questions) > QUESTIONS_MAX:
            raise _failed(f"the server asks {len(questions)} things at once")
        return {key: await self._answer(one) for key, one in questions.items()}

    async def _answer(self, question: Question) -> Any:
        match question.method:
            case "elicitation/create" if self._on_elicit is not None:
                return await self._elicited(self._on_elicit, question.params)
            case "sampling/createMessage" if self._on_sample is not None:
                return await self._sampled(self._on_sample, question.params)
            case "roots/list" if self._roots is not None:
                return await self._listed(self._roots)
            case method:
                raise _failed(f"the server asks {method[:64]!r}, for which there is no handler")

    async def _elicited(self, handler: OnElicit, params: msgspec.Raw) -> ElicitAnswer:
        asked = _read(params, Elicitation)
        try:
            said = await self._within(handler(asked))
        except Exception:  # noqa: BLE001 - a handler that fails answers nothing; its call goes on
            _log.exception("on_elicit failed; the question is answered with cancel")
            return ElicitAnswer("cancel")
        if isinstance(said, ElicitAnswer):
            return said
        return ElicitAnswer("decline") if said is None else ElicitAnswer("accept", dict(said))

    async def _sampled(self, handler: OnSample, params: msgspec.Raw) -> Mapping[str, Any]:
        asked = _read(params, Sampling)
        whole: dict[str, Any] = msgspec.json.decode(params)
        try:
            said = await self._within(handler(msgspec.structs.replace(asked, raw=whole)))
        except Exception as error:
            _log.exception("on_sample failed")
            raise _failed(f"on_sample failed ({type(error).__name__})") from error
        if not isinstance(said, str):
            return said
        return {
            "role": "assistant",
            "content": {"type": "text", "text": said},
            "model": "unknown",
            "stopReason": "endTurn",
        }

    async def _listed(self, roots: Roots) -> dict[str, Any]:
        try:
            given = await self._within(roots()) if callable(roots) else roots
            return {"roots": [_root(one) for one in given]}
        except Exception as error:
            _log.exception("roots failed")
            raise _failed(f"roots failed ({type(error).__name__})") from error

    async def _within(self, said: Any) -> Any:
        if not inspect.isawaitable(said):
            return said
        async with asyncio.timeout(self._wait_s):
            return await said


def _root(one: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(one, Mapping):
        return dict(one)
    text = str(one)
    uri = text if "://" in text else Path(text).absolute().as_uri()
    return {"uri": uri, "name": uri.rstrip("/").rpartition("/")[2]}


def _read(params: msgspec.Raw, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(params, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _failed(f"the server asks in a shape nobody knows: {error}") from None


def _failed(message: str) -> MeshCallError:
    return MeshCallError(ErrorKind.CAPABILITY, message, outcome=Outcome.UNKNOWN)
