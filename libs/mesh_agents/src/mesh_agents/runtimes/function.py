"""A Python callable of the operator's as an agent."""

import importlib
import inspect
import sys
from typing import cast

import msgspec

from mcp_proto.agent_runtimes import FunctionEntry
from mesh_agents.contract import AgentType, Hear
from mesh_agents.runtimes.loading import LoadError
from mesh_agents.worker.frames import Init
from mesh_sdk.swarm.callables import Function, step_function

__all__ = ["load"]


def load(init: Init) -> AgentType:
    """Import the callable.

    Raises:
        LoadError: it cannot be imported, or is none.
    """
    entry = msgspec.json.decode(init.settings, type=FunctionEntry)
    if entry.path and entry.path not in sys.path:
        sys.path.insert(0, entry.path)
    function = _imported(entry.call)
    doc = (inspect.getdoc(function) or "").partition("\n")[0]
    return AgentType(
        name=entry.name,
        description=entry.description or doc,
        capabilities=entry.capabilities,
        run=step_function(function),
        slots=entry.slots,
        hear=cast("Hear", _imported(entry.hear)) if entry.hear else None,
    )


def _imported(path: str) -> Function:
    module, _, name = path.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise LoadError(f"{path} cannot be imported: {error}") from error
    if not callable(found):
        raise LoadError(f"{path} cannot be called")
    return found
