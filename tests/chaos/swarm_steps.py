"""What agents of the chaos run do: a step whose executions can be counted afterwards."""

import asyncio
import os

__all__ = ["square"]

_SHORT_S, _SPREAD_S = 0.2, 0.4


async def square(n: int, effects: str) -> int:
    """The square of ``n``; a line in the file ``effects`` says that a step has begun, or ended."""
    _note(effects, f"b {n}\n")
    await asyncio.sleep(_SHORT_S + _SPREAD_S * (n * 7919 % 100) / 100)
    _note(effects, f"e {n}\n")
    return n * n


def _note(effects: str, line: str) -> None:
    """One write of a short line to a file opened for appending is whole, whoever else writes."""
    where = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(where, line.encode())
    finally:
        os.close(where)
