"""Waiting for whichever of several things happens first, without leaving a task behind."""

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["first_of"]


async def first_of(
    *work: Coroutine[Any, Any, Any], timeout_s: float | None = None
) -> tuple[int, Any] | None:
    """Run all of ``work`` and cancel what is left when the first one ends.

    Args:
        work: coroutines; of several that end together the earlier one counts.
        timeout_s: longest wait; None = for ever.

    Returns:
        Index and result of the first to end; None when the time was up.

    Raises:
        Exception: what the first one raised.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for index, task in enumerate(tasks):
            if task in done:
                return index, task.result()
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
