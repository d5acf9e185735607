"""What this host can run: from an agent type and a wish to a runtime, or the reason why not."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec

from mcp_proto.agent_runtimes import ModelEntry
from mcp_proto.contracts.swarm import RuntimeKind
from mcp_proto.jsonrpc import ABSENT
from mesh_agents.config import AgentHostConfig
from mesh_agents.contract import AgentType
from mesh_agents.runtimes.settings import ModelSource
from mesh_chassis.config import read_secret

__all__ = ["Kind", "Kinds", "RefusedError", "SpawnConfig"]

_GENERIC = ("tool", "function", "command", "llm", "synadia")
_ELSEWHERE: Mapping[str, str] = {
    "external": "an external agent is a program of its own: it attaches with its claim token",
    "vm": "agents in machines come with the machine spawner; this host has none",
    "a2a": "agents of the A2A protocol come with its edge; this host has none",
    "container": "this host starts no containers; run an agent host inside of one instead",
}


class RefusedError(Exception):
    """``reason`` as in ``Bid.refused``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SpawnConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What of ``config`` of a spawn decides what runs; the rest is the agent's own business."""

    runtime: str | None = None
    function: str | None = None
    command: tuple[str, ...] | None = None
    model_source: str | None = None
    agent: str | None = None


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told to be.

    Attributes:
        runtime: for people.
        loader: module of ``mesh_agents.runtimes``; "" = no process of its own.
        name: of the type; of ``synadia``, which agent is meant.
        settings: for the loader.
    """

    runtime: RuntimeKind
    loader: str
    name: str
    settings: msgspec.Raw = ABSENT


class Kinds:
    """Everything that can be an agent here.

    Args:
        config: of the host.
        builtin: built-in types.
    """

    def __init__(self, config: AgentHostConfig, builtin: Mapping[str, AgentType]) -> None:
        chosen = config.types.builtin
        self._builtin = {
            name: one for name, one in builtin.items()
            if name not in _GENERIC and (not chosen or name in chosen)
        }  # fmt: skip
        self._functions = {one.name: one for one in config.functions}
        self._commands = {one.name: one for one in config.commands}
        self._models = {one.name: one for one in config.models}

    @property
    def types(self) -> tuple[str, ...]:
        """Names that a spawn may use."""
        generic = ["tool", "synadia"]
        if self._functions:
            generic.append("function")
        if self._commands:
            generic.append("command")
        if self._models:
            generic.append("llm")
        return tuple(sorted({*generic, *self._builtin, *self._functions, *self._commands}))

    @property
    def capabilities(self) -> dict[str, tuple[str, ...]]:
        """What agents of the built-in types can do."""
        return {name: one.capabilities for name, one in self._builtin.items()}

    def check(self, agent_type: str, runtime: str) -> None:
        """Whether such an agent could run here, as far as a bid request tells.

        Raises:
            RefusedError: it could not.
        """
        wanted = runtime or agent_type
        if wanted in _ELSEWHERE:
            raise RefusedError("no_runtime", _ELSEWHERE[wanted])
        if wanted == "llm" and not self._models:
            raise RefusedError("no_model_source", "this host has no model source ([[models]])")
        if wanted in {"function", "command"} and not self._entries(wanted):
            raise RefusedError("no_runtime", f"this host allows no {wanted}s ([[{wanted}s]])")
        if runtime and runtime not in _GENERIC:
            raise RefusedError("no_runtime", f"{runtime!r} is no runtime")
        if not runtime and agent_type not in self.types:
            raise RefusedError(
                "no_runtime",
                f"nothing here runs {agent_type!r}; types here: {', '.join(self.types)}",
            )

    def resolve(self, agent_type: str, config: SpawnConfig) -> Kind:
        """What to run.

        Raises:
            RefusedError: nothing here fits.
        """
        self.check(agent_type, config.runtime or "")
        match config.runtime or agent_type:
            case "tool":
                return Kind(runtime="tool", loader="tool", name=agent_type)
            case "synadia":
                return Kind(runtime="synadia", loader="", name=config.agent or "")
            case "llm":
                return self._llm(agent_type, config)
            case "function" if config.runtime or agent_type == "function":
                return self._named("function", config.function or agent_type)
            case "command" if config.runtime or agent_type == "command":
                command = config.command or ()
                if len(command) > 1:
                    raise RefusedError(
                        "no_runtime", "command is the name of a command of the host's, alone; "
                        "its arguments come with the input of each step",
                    )  # fmt: skip
                return self._named("command", (*command, agent_type)[0])
            case name if name in self._functions:
                return self._named("function", name)
            case name if name in self._commands:
                return self._named("command", name)
            case name:
                return Kind(runtime="function", loader="builtin", name=name)

    def _entries(self, kind: str) -> Mapping[str, msgspec.Struct]:
        table = self._functions if kind == "function" else self._commands
        return cast("Mapping[str, msgspec.Struct]", table)

    def _named(self, kind: str, name: str) -> Kind:
        entries = self._entries(kind)
        found = entries.get(name)
        if found is None:
            raise RefusedError(
                "no_runtime",
                f"this host allows no {kind} {name!r}; it allows: {', '.join(entries)}",
            )
        settings = msgspec.Raw(msgspec.json.encode(found))
        runtime: RuntimeKind = "function" if kind == "function" else "command"
        return Kind(runtime=runtime, loader=kind, name=name, settings=settings)

    def _llm(self, agent_type: str, config: SpawnConfig) -> Kind:
        wanted = config.model_source or next(iter(self._models))
        entry = self._models.get(wanted)
        if entry is None:
            known = ", ".join(self._models)
            raise RefusedError("no_model_source", f"no model source {wanted!r}; here: {known}")
        source = ModelSource(entry=entry, key=_key(entry))
        settings = msgspec.Raw(msgspec.json.encode(source))
        return Kind(runtime="llm", loader="llm", name=agent_type, settings=settings)


def _key(entry: ModelEntry) -> str:
    if not entry.key_file:
        return ""
    path = Path(os.path.expanduser(entry.key_file))  # noqa: PTH111
    return read_secret(str(path), key=f"models.{entry.name}.key_file")
