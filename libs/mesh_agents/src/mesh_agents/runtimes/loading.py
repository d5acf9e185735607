"""The agent type that a worker shall be. Runtimes are imported when they are needed only."""

import msgspec

from mesh_agents.contract import AgentType
from mesh_agents.worker.frames import Init

__all__ = ["LoadError", "Loaded", "load"]


class LoadError(Exception):
    """The agent cannot be what it was told to be.

    Args:
        message: public text.
        reason: ``failed``, or a reason of a refused bid.
    """

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class Loaded(msgspec.Struct, frozen=True):
    """The type, and where its model is; "" = it has none."""

    type: AgentType
    model_source: str = ""


def load(init: Init) -> Loaded:
    """Make the type.

    Raises:
        LoadError: it cannot be made.
    """
    # Imported here: each costs the start of every other kind its time.
    match init.kind:
        case "builtin":
            from mesh_agents.types import TYPES  # noqa: PLC0415

            found = TYPES.get(init.name)
            if found is None:
                raise LoadError(f"there is no built-in type {init.name}", "no_runtime")
            return Loaded(found)
        case "function":
            from mesh_agents.runtimes import function  # noqa: PLC0415

            return Loaded(function.load(init))
        case "command":
            from mesh_agents.runtimes import command  # noqa: PLC0415

            return Loaded(command.load(init))
        case "tool":
            from mesh_agents.runtimes import tool  # noqa: PLC0415

            return Loaded(tool.load(init))
        case "llm":
            from mesh_agents.runtimes import llm  # noqa: PLC0415

            return llm.load(init)
        case _:
            raise LoadError(f"no runtime {init.kind} here", "no_runtime")
