"""``[agents]`` of ``mesh.toml``: agents elsewhere that become servers; what hosts of swarms run.

The entries of functions, commands and models are those of the host's own file
(``mesh_agents.runtimes.settings``), which knows nothing of this command; a test compares them.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mcp_proto.discovery import AgentsTable

__all__ = ["AgentsHereTable", "CommandTable", "FunctionTable", "ModelTable", "ReplyTable"]

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")]
Slots = Annotated[int, Meta(ge=1, le=64)]
Count = Annotated[int, Meta(ge=0)]


class FunctionTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``[[agents.functions]]``: a Python callable that may be an agent.

    Attributes:
        name: agent type, also ``config.function`` of a spawn of type ``function``.
        call: ``module:callable``.
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


class CommandTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``[[agents.commands]]``: a program that may be an agent.

    Attributes:
        name: agent type, also ``config.command[0]`` of a spawn of type ``command``.
        argv: program and arguments; ``{name}`` is filled with that member of the step's input.
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
    file_bytes: Count = 0
    cpu_s: Count = 0


class ReplyTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a scripted model: text, or a call of a tool with arguments (JSON)."""

    text: str = ""
    tool: str = ""
    arguments: str = "{}"


class ModelTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``[[agents.models]]``: where agents of type ``llm`` get their model from.

    Attributes:
        name: ``config.modelSource`` of a spawn; the first entry is the default.
        kind: ``openai`` = an OpenAI-compatible endpoint; ``client`` = whoever submitted the task;
            ``scripted`` = the turns below, for tests.
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
    tokens_max: Count = 0
    tool_calls_max: Annotated[int, Meta(ge=0, le=1_000)] = 64
    slots: Slots = 1
    replies: tuple[ReplyTable, ...] = ()


class AgentsHereTable(AgentsTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[agents]``: agents known elsewhere, and what agents of swarms may be here.

    Attributes:
        known: agents elsewhere that speak MCP over HTTP; each becomes a server.
        hosts: agent hosts to run, where ``[swarm]`` is enabled.
        per_host: agents of one host at once.
        per_tenant: of these, agents of one tenant; 0 = as many as there may be.
        types: built-in types that are offered; () = all.
        roots: folders that steps of built-in types may read, relative to this file; () = none.
        memory_mb: memory of an agent that asks for none, in MiB; 0 = no limit.
        memory_mb_max: most that an agent may ask for; 0 = what the machine has.
        cpu_max: most cores that an agent may ask for; 0 = what the machine has.
        functions: Python callables that may be agents.
        commands: programs that may be agents.
        models: where agents of type ``llm`` get their model from.
    """

    hosts: Annotated[int, Meta(ge=1, le=16)] = 1
    per_host: Annotated[int, Meta(ge=0, le=1_024)] = 64
    per_tenant: Count = 0
    types: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    memory_mb: Count = 0
    memory_mb_max: Count = 0
    cpu_max: Annotated[float, Meta(ge=0)] = 0.0
    functions: tuple[FunctionTable, ...] = ()
    commands: tuple[CommandTable, ...] = ()
    models: tuple[ModelTable, ...] = ()

    def problem(self) -> str | None:
        """What is wrong with it: key and reason; None = nothing."""
        for key, names in (
            ("functions", [one.name for one in self.functions]),
            ("commands", [one.name for one in self.commands]),
            ("models", [one.name for one in self.models]),
        ):
            for at, name in enumerate(names):
                if name in names[:at]:
                    return f"agents.{key}[{at}].name: {name!r} is used twice"
        for at, model in enumerate(self.models):
            if model.kind == "openai" and not model.url.startswith(("http://", "https://")):
                return f"agents.models[{at}].url: needs an http:// or https:// URL"
            if model.kind == "scripted" and not model.replies:
                return f"agents.models[{at}].replies: a scripted model needs turns"
        return None

    def for_host(self, work_dir: str) -> dict[str, Any]:
        """Tables of a host's file.

        Args:
            work_dir: where agents have their directories.
        """
        host = {
            "agents_max": self.per_host,
            "tenant_agents_max": self.per_tenant,
            "memory_bytes": self.memory_mb * 1024 * 1024,
            "memory_bytes_max": self.memory_mb_max * 1024 * 1024,
            "cpu_max": self.cpu_max,
            "work_dir": work_dir,
        }
        types = {"builtin": self.types, "roots": self.roots}
        tables = {
            "host": host,
            "types": {key: found for key, found in types.items() if found},
            "functions": self.functions,
            "commands": self.commands,
            "models": self.models,
        }
        # JSON rather than built-ins: it leaves no tuple behind, at any depth.
        plain = msgspec.json.decode(msgspec.json.encode(tables))
        return {key: found for key, found in plain.items() if found}

    def below(self, folder: Path) -> "AgentsHereTable":
        """With its folders as absolute paths."""
        roots = tuple(str((folder / root).resolve()) for root in self.roots)
        return msgspec.structs.replace(self, roots=roots)
