"""Programs that are agents of a swarm."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh_sdk.swarm.app import SwarmAgent
    from mesh_sdk.swarm.attachment import RefusedError
    from mesh_sdk.swarm.steps import (
        Letter,
        StepFailedError,
        StepInput,
        StepOutput,
        StepRejectedError,
        ToolAnswer,
        ballot,
    )

__all__ = [
    "Letter",
    "RefusedError",
    "StepFailedError",
    "StepInput",
    "StepOutput",
    "StepRejectedError",
    "SwarmAgent",
    "ToolAnswer",
    "ballot",
]

_PLACES = {"SwarmAgent": "app", "RefusedError": "attachment"}


def __getattr__(name: str) -> object:
    # Looked up when asked for: the process of an agent needs the steps only, and starts fast.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"mesh_sdk.swarm.{_PLACES.get(name, 'steps')}")
    return getattr(module, name)
