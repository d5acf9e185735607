"""The agent host as the process that ``mesh up`` starts."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tomllib
from pathlib import Path

import pytest
from libs.mesh_sdk.tests.swarm.rig import HOST, owning

from mcp_proto import buckets
from mesh_agents.config import AgentHostConfig, check_config
from mesh_chassis.bucket import KV
from mesh_chassis.config import ConfigError, load
from mesh_chassis.reaper import MARKER
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.processes import is_alive, marked

HERE = Path(__file__).parent


def written(tmp_path: Path, broker, extra: str = "") -> Path:
    seed = broker.seed_for("agent-host", HOST)
    path = tmp_path / "host.toml"
    path.write_text(
        f"""
        [service]
        instance = "{HOST}"
        accept_s = 0
        drain_s = 6
        [bus]
        urls = ["{broker.url}"]
        nkey_seed_file = "{seed}"
        [host]
        work_dir = "{tmp_path}/agents"
        cgroups = false
        beat_s = 0.3
        [types]
        roots = ["{tmp_path}"]
        [[functions]]
        name = "plain"
        call = "sample_functions:plain"
        path = "{HERE}"
        [[commands]]
        name = "cat"
        argv = ["cat"]
        {extra}
        """
    )
    assert tomllib.loads(path.read_text())
    return path


@contextlib.asynccontextmanager
async def running(path: Path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh_agents", "--config", str(path),
        cwd=path.parent, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def owner(connect_bus):
    await KV.ensure(await connect_bus("registry", "registry-1"), buckets.INSTANCES)
    async with owning(await connect_bus("swarm-coordinator", "swarm-1"), "swarm_main") as one:
        yield one


async def ready(owner) -> None:
    async def bids() -> bool:
        with contextlib.suppress(Exception):
            return (await owner.bid("cat")).refused == ""
        return False

    await eventually(bids, timeout_s=20)


async def test_host_runs_agents_until_it_is_told_to_stop(owner, shared_broker, tmp_path):
    async with running(written(tmp_path, shared_broker)) as process:
        await ready(owner)
        command = await owner.spawn("cat")
        builtin = await owner.spawn("validator", agent="agent_2")
        assert (command.refused, builtin.refused) == ("", ""), builtin
        result = await owner.do({"input": "x"})
        assert json.loads(bytes(result.structured)) == {"input": "x"}
        process.send_signal(signal.SIGTERM)
        _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert {one.state for one in owner.beats[-1].agents} == {"gone"}
    assert not is_alive(command.pid)
    assert not is_alive(builtin.pid)


@pytest.mark.slow
async def test_killed_host_leaves_no_process_behind(owner, shared_broker, tmp_path):
    async with running(written(tmp_path, shared_broker)) as process:
        await ready(owner)
        spawned = await owner.spawn("plain")
        file = tmp_path / "pid"
        await owner.send(owner.item({"input": {"do": "tree", "file": str(file)}}))
        await eventually(lambda: file.exists() and file.read_text())
        environment = Path(f"/proc/{spawned.pid}/environ").read_bytes().split(b"\0")  # noqa: ASYNC240
        marker = next(one.decode() for one in environment if one.startswith(MARKER.encode()))
        assert len(marked(marker)) >= 3
        os.kill(process.pid, signal.SIGKILL)
        await eventually(lambda: not marked(marker))
    assert not is_alive(int(file.read_text()))


async def test_check_config_says_what_is_wrong(shared_broker, tmp_path):
    for extra, words in (
        ('[[commands]]\nname = "cat"\nargv = ["cat"]', "used twice"),
        ('[[models]]\nname = "m"\nurl = "ftp://x"', "http"),
        ('[[models]]\nname = "m"\nkind = "scripted"', "turns"),
    ):
        config = load(AgentHostConfig, written(tmp_path, shared_broker, extra), {})
        with pytest.raises(ConfigError, match=words):
            check_config(config)
