"""A spawner that kills itself at one point: ``crashing_spawner.py CONFIG SEED POINT``.

Run as a program by ``test_crashes``; machines reach the broker with the user of the seed file.
"""

import os
import signal
import sys
from pathlib import Path

from mesh_chassis.runtime import run
from mesh_chassis.service import Service
from vm_spawner.config import VmSpawnerConfig
from vm_spawner.network.credential import NkeyCredential
from vm_spawner.network.identity import Identity
from vm_spawner.network.proxy import LinkProxy
from vm_spawner.service import NAME, build


class SeedLink:
    def __init__(self, proxy: LinkProxy) -> None:
        self._proxy = proxy
        self.connected_at: float | None = None

    async def close(self) -> None:
        await self._proxy.close()


class SeedLinks:
    def __init__(self, service: Service, seed: bytes) -> None:
        self._service = service
        self._seed = seed

    async def open(self, path: str, identity: Identity, *, mux: bool) -> SeedLink:
        proxy = LinkProxy(
            bus=self._service.bus.config,
            name=f"vm/{identity.vm_id}",
            credential=NkeyCredential(self._seed),
        )
        await proxy.listen(path, mux=mux)
        return SeedLink(proxy)

    async def forget(self, vm_id: str) -> None: ...


def main() -> None:
    config, seed, deadly = sys.argv[1:]

    def point(name: str) -> None:
        if name == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    async def made(service: Service, section: VmSpawnerConfig) -> None:
        links = SeedLinks(service, Path(seed).read_bytes())  # noqa: ASYNC240 - once
        await build(service, section, point=point, links=links)

    run(made, VmSpawnerConfig, NAME, arguments=["--config", config])


if __name__ == "__main__":
    main()
