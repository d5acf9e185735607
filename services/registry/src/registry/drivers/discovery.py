"""What discovery needs of a place in which agents announce themselves.

One file per place beside this one. What is read there was written by others: a driver gives it
on as it stands, bounded in number and size, and judges nothing.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from registry.core.found import Agent

__all__ = ["Discovery", "Seen"]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is there now.

    Attributes:
        agents: those that can be read, in a stable order.
        unreadable: name and reason of the others.
    """

    agents: tuple[Agent, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


class Discovery(Protocol):
    """A place in which agents are found.

    Attributes:
        origin: its name: ``etcd``, ``consul``, ``static``.
        lasting: True where an agent that is not mentioned is gone at once.
    """

    origin: str
    lasting: bool

    def found(self) -> AsyncIterator[Seen]:
        """All agents, at once, after every change, and at least once per heartbeat interval.

        Raises:
            MeshError: ``upstream``: the place cannot be reached, or refuses us; call again.
        """
        ...

    async def announce(self, agent: Agent) -> str | None:
        """Say that we are there; called once per heartbeat interval, and bounded in time.

        Returns:
            Why others cannot see it although the place answers; None = they see it.

        Raises:
            MeshError: ``upstream``.
        """
        ...

    async def withdraw(self) -> None:
        """Say that we are gone; harmless when nothing was announced.

        Raises:
            MeshError: ``upstream``; the time to live says it later.
        """
        ...

    async def close(self) -> None:
        """End connections."""
        ...
