"""``[agents]`` of ``mesh.toml``: agents elsewhere that become servers; what hosts of swarms run."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mcp_proto.agent_runtimes import CommandEntry, FunctionEntry, ModelEntry
from mcp_proto.discovery import AgentsTable

__all__ = ["AgentsHereTable"]

Count = Annotated[int, Meta(ge=0)]


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
    functions: tuple[FunctionEntry, ...] = ()
    commands: tuple[CommandEntry, ...] = ()
    models: tuple[ModelEntry, ...] = ()

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
