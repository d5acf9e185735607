"""What a host's configuration allows its agents to be: functions, commands, sources of models.

Written in ``[agents]`` of ``mesh.toml`` and handed to the hosts as it is. Nothing here comes from
whoever spawns an agent: programs, functions and model sources are those that the host's operator
wrote down.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = ["CommandEntry", "FunctionEntry", "ModelEntry", "Reply"]

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")]
Slots = Annotated[int, Meta(ge=1, le=64)]


class FunctionEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[[agents.functions]]``: a Python callable that may be an agent.

    Attributes:
        name: agent type, also ``config.function`` of a spawn of type ``function``.
        call: ``module:callable``. It takes the ``StepInput``, or the members of the payload's
            ``input`` by name; ``async`` runs in the agent's loop, plain in a process per step.
        description: for people and models; "" = the first line of its docstring.
        capabilities: what it can do.
        slots: steps at once.
        path: directory to import from; "" = only what is installed.
        hear: ``module:callable`` that gets letters; "" = none.
    """

    name: Name
    call: Annotated[str, Meta(pattern=r"\A[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")]
    description: str = ""
    capabilities: tuple[str, ...] = ()
    slots: Slots = 1
    path: str = ""
    hear: Annotated[str, Meta(pattern=r"\A(?:[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)?\Z")] = ""


class CommandEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[[agents.commands]]``: a program that may be an agent.

    Attributes:
        name: agent type, also ``config.command[0]`` of a spawn of type ``command``.
        argv: program and arguments; ``{name}`` is filled with that member of the payload's
            ``input``, never beginning an option and never with more than one element.
        description: for people and models.
        capabilities: what it can do.
        slots: steps at once.
        env: variables beside the few that every child gets.
        output: ``json``, ``text`` or ``auto`` (JSON where it is JSON).
        exit_ok: exit statuses that are no failure.
        allow_dash: placeholders whose values may begin with a dash.
        output_bytes: longest standard output.
        file_bytes: longest file that it may write; 0 = no limit.
        cpu_s: processor time of one step, in seconds; 0 = no limit.
    """

    name: Name
    argv: Annotated[tuple[str, ...], Meta(min_length=1, max_length=256)]
    description: str = ""
    capabilities: tuple[str, ...] = ()
    slots: Slots = 1
    env: dict[str, str] = {}
    output: Literal["auto", "json", "text"] = "auto"
    exit_ok: tuple[int, ...] = (0,)
    allow_dash: tuple[str, ...] = ()
    output_bytes: Annotated[int, Meta(ge=1, le=10_000_000)] = 4_000_000
    file_bytes: Annotated[int, Meta(ge=0)] = 0
    cpu_s: Annotated[int, Meta(ge=0)] = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a scripted model: text, or a call of a tool with arguments (JSON)."""

    text: str = ""
    tool: str = ""
    arguments: str = "{}"


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[[agents.models]]``: where agents of type ``llm`` get their model from.

    Attributes:
        name: ``config.modelSource`` of a spawn; the first entry is the default.
        kind: ``openai`` = an OpenAI-compatible endpoint; ``client`` = whoever submitted the task
            (a sampling request in its ``inputRequests``); ``scripted`` = the turns below, for
            tests.
        url: of ``openai``, up to and without ``/chat/completions``.
        model: sent where the agent's ``config.model`` says nothing.
        key_file: file with the bearer token; "" = none.
        request_s: longest wait for one answer of the model.
        retries: repeats after 429, 5xx and time-outs.
        turns_max: most turns of one step.
        tokens_max: most tokens of one step, where the endpoint counts them; 0 = no limit.
        tool_calls_max: most tool calls of one step.
        slots: steps at once of one agent.
        replies: turns of ``scripted``.
    """

    name: Name
    kind: Literal["openai", "client", "scripted"] = "openai"
    url: str = ""
    model: str = ""
    key_file: str = ""
    request_s: Annotated[float, Meta(gt=0, le=600)] = 120.0
    retries: Annotated[int, Meta(ge=0, le=10)] = 3
    turns_max: Annotated[int, Meta(ge=1, le=100)] = 16
    tokens_max: Annotated[int, Meta(ge=0)] = 0
    tool_calls_max: Annotated[int, Meta(ge=0, le=1_000)] = 64
    slots: Slots = 1
    replies: tuple[Reply, ...] = ()
