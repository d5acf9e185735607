"""Typed requests to one spawner: as operations, but of an instance and not of the service."""

from typing import TypeVar

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts import Operation
from mcp_proto.names import VM_SPAWNER

__all__ = ["directed"]

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class _Directed(Operation[P, R], frozen=True):
    """An operation of one instance, named by its subject."""

    address: str = ""

    @property
    def subject(self) -> str:
        """Subject of the instance."""
        return self.address


def directed(spawner: str, verb: str, params: type[P], result: type[R]) -> Operation[P, R]:
    """An operation of one spawner.

    Args:
        spawner: instance id.
        verb: what is asked.
        params: type of the request's body.
        result: type of the answer's.
    """
    return _Directed(
        service=VM_SPAWNER,
        name=verb,
        params=params,
        result=result,
        address=subjects.instance(subjects.PLATFORM, spawner, verb),
    )
