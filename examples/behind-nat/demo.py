"""Starts a broker and an agent at home, calls the agent through the hub, and tries to get out."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import breakout

from mesh_sdk import Client

HERE = Path(__file__).parent
STATE = Path(os.environ["MESH_STATE"])
NATS_SERVER = str(Path(sys.executable).with_name("nats-server"))
WAIT_S = 20


@asynccontextmanager
async def program(
    name: str, *command: str, env: Mapping[str, str], sign: str
) -> AsyncGenerator[None, None]:
    """A program until the end of the block; entered when it has logged ``sign``."""
    log = Path(f"{name}.log")
    with log.open("w") as file:
        child = await asyncio.create_subprocess_exec(*command, env=env, stdout=file, stderr=file)
    try:
        async with asyncio.timeout(WAIT_S):
            while sign not in log.read_text():
                assert child.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        await child.wait()


@asynccontextmanager
async def home() -> AsyncGenerator[str, None]:
    """The broker at home and the agent behind it; nothing of the hub's but the leaf's seed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    outside = ("MESH_", "NATS_", "MCP_")
    plain = {key: value for key, value in os.environ.items() if not key.startswith(outside)}
    broker = plain | {
        "HOME_PORT": port,
        "HUB": f"nats-leaf://127.0.0.1:{os.environ['MESH_LEAFNODES_PORT']}",
        "LEAF_SEED": (STATE / "keys" / "leaf-home.nk").read_text().strip(),
    }
    agent = plain | {
        "NATS_URL": f"nats://127.0.0.1:{port}",
        "MESH_TENANT": "demo-tenant",
        "MESH_INSTANCE": "thermostat-1",
    }
    conf, file = str(HERE / "home.conf"), str(HERE / "thermostat.py")
    async with (
        program("home", NATS_SERVER, "-c", conf, env=broker, sign="Leafnode connection created"),
        program("thermostat", sys.executable, file, env=agent, sign="is ready"),
    ):
        yield f"nats://127.0.0.1:{port}"


async def call_it() -> None:
    """A client of the hub over HTTP: it cannot tell that the agent is elsewhere."""
    run = json.loads((STATE / "run.json").read_text())
    edge = next(point["http"] for point in run["endpoints"] if point["http"])
    async with Client(edge) as client:
        async with asyncio.timeout(WAIT_S):
            while not any(tool.name == "thermostat__read" for tool in await client.list_tools()):
                await asyncio.sleep(0.1)
        print("read:", (await client.call_tool("thermostat", "read")).structured)
        steps: list[str | None] = []
        warm = await client.call_tool(
            "thermostat",
            "set_target",
            {"celsius": 21.5},
            progress=lambda step: steps.append(step.message),
        )
        print("set:", warm.structured, steps)
        cold = await client.call_tool("thermostat", "set_target", {"celsius": 99})
        print("refused:", cold.text)
        kept = await client.call_tool("kv_get", {"key": "thermostat/target"})
    assert warm.structured == {"celsius": 21.5}
    assert steps == ["asking the boiler"]
    assert cold.is_error
    assert kept.structured["value"] == 21.5


async def main() -> None:
    """Both."""
    async with home() as url:
        await call_it()
        run = json.loads((STATE / "run.json").read_text())
        await breakout.attempt(url, run["nats"], STATE / "keys")
    print("ok: called through the hub; nothing else of the hub can be called, served or heard")


asyncio.run(main())
