"""A small service in a process of its own, driven by the tests of ``runtime``.

Serves server ``toy``: ``echo`` answers at once, ``slow`` when the file named by ``[toy] release``
exists, ``stuck`` never, ``block`` blocks the event loop. What happens is written to stdout.
"""

import asyncio
import contextlib
import sys
import threading
import time
from pathlib import Path

import msgspec

from mcp_proto import subjects
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.config import (
    ConfigError,
    LogConfig,
    OpsConfig,
    ServiceSection,
    TelemetryConfig,
)
from mesh_chassis.runtime import EXIT_RESTART, run
from mesh_chassis.service import Service
from mesh_chassis.watchdog import LoopWatchdog, exit_hung


class Toy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    release: str = ""
    fault: str = ""
    hang_s: float = 0.0


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    service: ServiceSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    toy: Toy = Toy()


def say(text: str) -> None:
    print(text, flush=True)


def answering(service: Service, config: Config):
    async def answer(call: Call) -> bytes:
        tool = call.subject.names[1]
        say(f"call {tool}")
        match tool:
            case "slow":
                while not Path(config.toy.release).exists():  # noqa: ASYNC110, ASYNC240
                    await asyncio.sleep(0.01)
            case "stuck":
                await asyncio.Event().wait()
            case "stubborn" | "thread":
                await _outlive(tool)
            case "block":
                time.sleep(float(call.payload))  # noqa: ASYNC251 - the fault under test
            case "close":
                await service.bus.client.close()
            case "die":
                service.tasks.spawn(_fail(), name="part", fatal=True)
            case _:
                pass
        return b'"done"'

    return answer


async def build(service: Service, config: Config) -> None:
    def said(text: str):
        async def hook() -> None:
            say(text)

        return hook

    if config.toy.hang_s:
        # The watchdog of the process is made before this; a second one with less patience.
        dog = LoopWatchdog(
            service.health, hung=lambda: exit_hung(EXIT_RESTART), exit_s=config.toy.hang_s
        )
        service.tasks.spawn(dog.run(), name="impatient")
    if config.toy.fault == "config":
        raise ConfigError("", "toy.fault", "asked for")
    if config.toy.fault == "crash":
        raise ValueError("asked for")
    service.add_endpoint(
        Endpoint(
            service.bus,
            subject=subjects.call(subjects.ANY, "toy", subjects.ANY),
            queue=subjects.QUEUE,
            handler=answering(service, config),
            slots=4,
        )
    )
    service.add_health_check("toy", lambda: True)
    service.on_start(said("start"))
    service.on_ready(said("ready"))
    service.on_drain(said("drain"))
    service.on_stop(said("stop 1"))
    service.on_stop(said("stop 2"))


async def _outlive(how: str) -> None:
    while how == "stubborn":
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    await asyncio.to_thread(threading.Event().wait)


async def _fail() -> None:
    raise ValueError("part failed")


if __name__ == "__main__":
    run(build, Config, "tool-runner", version="1.0.0", arguments=sys.argv[1:])
