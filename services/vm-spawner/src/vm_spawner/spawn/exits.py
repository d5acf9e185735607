"""When a machine's process ends: told by the kernel, not found by polling.

A pidfd names one process for ever, so that a number that is used again misleads nobody.
"""

import asyncio
import contextlib
import os

from vm_spawner.drivers.machine import Handle, MachineDriver
from vm_spawner.drivers.measured import process_start

__all__ = ["gone"]

POLL_S = 1.0
"""For machines that are no process of this host (containers)."""


async def gone(handle: Handle, driver: MachineDriver) -> None:
    """Return when the machine is gone."""
    if not handle.pid:
        while (await driver.stat(handle)).running:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(POLL_S)
        return
    try:
        descriptor = os.pidfd_open(handle.pid)
    except OSError:
        return
    try:
        if process_start(handle.pid) != handle.started:
            return
        await _readable(descriptor)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    loop.add_reader(descriptor, end)
    try:
        await over
    finally:
        loop.remove_reader(descriptor)
