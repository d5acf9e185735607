"""Whether a call has had an effect: what may be made once more after a change of owner."""

from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TypeVar

from mcp_proto.errors import MeshError, Outcome

__all__ = ["had_effect", "told_apart"]

T = TypeVar("T")


class _Mark:
    __slots__ = ("effect",)

    def __init__(self) -> None:
        self.effect = False


_current: ContextVar[_Mark | None] = ContextVar("swarm_call", default=None)


def had_effect() -> None:
    """The call of this context has stored something, or told a host something."""
    mark = _current.get()
    if mark is not None:
        mark.effect = True


async def told_apart(work: Awaitable[T]) -> T:
    """Await the work of one call; a failure after its first effect is never ``not_executed``.

    Raises:
        MeshError: what the work raises, with the outcome of the whole call.
    """
    mark = _Mark()
    token = _current.set(mark)
    try:
        return await work
    except MeshError as error:
        if mark.effect and error.outcome is Outcome.NOT_EXECUTED:
            error.outcome = Outcome.UNKNOWN
        raise
    finally:
        _current.reset(token)
