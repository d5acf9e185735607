"""An agent host in the test's own process, with real agents, and the owner that drives it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from libs.mesh_sdk.tests.swarm.rig import HOST, Owner, owning

from mcp_proto import buckets
from mcp_proto.agent_runtimes import CommandEntry, FunctionEntry
from mesh_agents.config import AgentHostConfig, HostSection
from mesh_agents.service import NAME, build
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.in_process import in_process

__all__ = ["config", "functions", "hosting"]

Connect = Callable[..., Awaitable[Bus]]
HERE = str(Path(__file__).parent)


def functions(*names: str) -> tuple[FunctionEntry, ...]:
    """Entries of functions in ``sample_functions``."""
    return tuple(
        FunctionEntry(
            name=name,
            call=f"sample_functions:{name}",
            path=HERE,
            capabilities=("sample",),
            slots=4,
            hear="sample_functions:hear",
        )
        for name in names
    )


def config(tmp_path: Path, **parts: Any) -> AgentHostConfig:
    """A host with the sample functions and a few commands."""
    host = msgspec.structs.replace(
        HostSection(work_dir=str(tmp_path / "agents"), cgroups=False, beat_s=0.3),
        **parts.pop("host", {}),
    )
    given: dict[str, Any] = {
        "functions": functions("add", "add_async", "anything", "plain"),
        "commands": (
            CommandEntry(name="cat", argv=("cat",)),
            CommandEntry(name="echo", argv=("echo", "{text}"), output="text"),
            CommandEntry(name="fails", argv=("sh", "-c", "echo why >&2; exit 3")),
            CommandEntry(name="sleeps", argv=("sleep", "{s}")),
        ),
        **parts,
    }
    return AgentHostConfig(service=ServiceSection(instance=HOST, drain_s=8.0), host=host, **given)


@asynccontextmanager
async def hosting(
    connect: Connect, tmp_path: Path, swarm: str, **parts: Any
) -> AsyncGenerator[Owner, None]:
    """A host, and the owner of one swarm."""
    await KV.ensure(await connect("registry", "registry-1"), buckets.INSTANCES)
    owner_bus = await connect("swarm-coordinator", "swarm-1")
    host_bus = await connect(NAME, HOST)
    async with (
        owning(owner_bus, swarm) as owner,
        in_process(build, config(tmp_path, **parts), host_bus),
    ):
        yield owner
