"""Wait for something to become true, bounded: the one place where tests poll."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

__all__ = ["eventually"]

_POLL_S = 0.01


async def eventually(
    holds: Callable[[], bool | Awaitable[bool]], *, timeout_s: float = 5.0, what: str = ""
) -> None:
    """Return as soon as ``holds()`` is true; it may be a coroutine function.

    Raises:
        AssertionError: it was not within ``timeout_s`` seconds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = holds()
                if await answer if inspect.isawaitable(answer) else answer:
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what or holds}") from None
