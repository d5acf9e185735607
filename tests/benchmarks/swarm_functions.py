"""Functions that agents of the benchmark run: one does nothing, one waits."""

import asyncio

HELD_S = 6.0


async def noop(step: object) -> dict[str, bool]:
    """Nothing."""
    del step
    return {"ok": True}


async def hold(step: object) -> dict[str, bool]:
    """Keep its slot for a while."""
    del step
    await asyncio.sleep(HELD_S)
    return {"ok": True}
