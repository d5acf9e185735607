"""A runner in a process of its own, to be killed: ``runner_process.py URL SEED SERVER``."""

import asyncio
import sys

from mcp_proto import subjects
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.bus.endpoint import Call, Endpoint


async def handler(call: Call) -> bytes:
    await call.emit(b"started")
    await asyncio.sleep(60)
    return b"never"


async def main(url: str, seed: str, server: str) -> None:
    config = BusConfig(urls=(url,), nkey_seed_file=seed)
    bus = await Bus.connect(config, service="tool-runner", instance="runner-2")
    endpoint = Endpoint(
        bus,
        subject=subjects.call(subjects.ANY, server, subjects.ANY),
        queue=subjects.QUEUE,
        handler=handler,
    )
    await endpoint.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
