"""The stage as a real process: hello, go, the program, stop; also where it is nobody's root."""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

WAIT_S = 20.0
ENTROPY = "ab" * 32


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: a Unix socket's path is short.
    with tempfile.TemporaryDirectory(prefix="st") as name:
        yield Path(name)


class Machine:
    """The host's side of one stage."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self.reader = reader
        self.writer = writer

    async def said(self) -> dict[str, object]:
        return json.loads(await self.reader.readline())

    def say(self, line: object) -> None:
        text = line if isinstance(line, bytes) else json.dumps(line).encode()
        self.writer.write(text + b"\n")

    def go(self, source: str, **more: object) -> None:
        config = {"source": source, **more}
        self.say({"type": "go", "vmId": "vm-1", "tenant": "acme", "prefix": "mesh.v1.acme",
                  "now": time.time(), "entropy": ENTROPY, "config": config})  # fmt: skip

    async def printed(self) -> str:
        """Everything, once the stage has ended."""
        out, _ = await self.process.communicate()
        return out.decode()


@asynccontextmanager
async def started(folder: Path, *prefix: str, own_kernel: bool = False) -> AsyncIterator[Machine]:
    arrived: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
        asyncio.get_running_loop().create_future()
    )
    server = await asyncio.start_unix_server(
        lambda *streams: arrived.set_result(streams), str(folder / "ctl")
    )
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-m", "mesh_sdk.guest",
        "--own-kernel" if own_kernel else "--shared",
        "--control", f"unix:{folder}/ctl", "--link", f"unix:{folder}/nats",
        "--work", str(folder), "--image", "sha256:1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={"SECRET_OF_THE_HOST": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(WAIT_S):
            reader, writer = await arrived
            yield Machine(process, reader, writer)
            writer.close()
    finally:
        server.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


SHOW = """
import json, os, sys
print(json.dumps({"env": dict(os.environ), "argv": sys.argv,
                  "config": json.load(open(os.environ["MESH_MACHINE_CONFIG"]))}))
"""


async def test_the_program_runs_after_go_with_what_go_said_and_nothing_of_the_host(
    folder: Path,
) -> None:
    async with started(folder) as machine:
        hello = await machine.said()
        assert hello == {"type": "hello", "parked": True, "image": "sha256:1", "agent": ""}
        machine.say({"type": "later"})  # a newer host may say more
        machine.go(
            SHOW, arguments=["one"], environment={"MINE": "yes", "MESH_URL": "nats://x"}, own=7
        )
        said = json.loads(await machine.printed())
    assert machine.process.returncode == 0
    environment = said["env"]
    assert environment["MESH_URL"] == f"unix:{folder}/nats"
    assert environment["MESH_INSTANCE"] == environment["MESH_MACHINE"] == "vm-1"
    assert environment["MESH_TENANT"] == "acme"
    assert environment["MINE"] == "yes"
    assert "SECRET_OF_THE_HOST" not in environment
    assert said["argv"][1:] == ["one"]
    assert said["config"]["own"] == 7


READY = """
import os, signal, sys, time
def end(*_):
    print("drained", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
os.write(int(os.environ["MESH_AGENT_READY_FD"]), b"ready\\n")
time.sleep(60)
"""


async def test_ready_is_said_when_the_program_serves_and_stop_lets_it_finish(folder: Path) -> None:
    async with started(folder) as machine:
        await machine.said()
        machine.go(READY)
        assert await machine.said() == {"type": "ready", "undone": ["kernel and user: the host's"]}
        machine.say(b"{garbage")
        machine.say({"type": "stop"})
        assert "drained" in await machine.printed()
    assert machine.process.returncode == 3


async def test_a_program_ends_when_its_host_hangs_up(folder: Path) -> None:
    async with started(folder) as machine:
        await machine.said()
        machine.go(READY)
        await machine.said()
        machine.writer.close()
        assert "drained" in await machine.printed()


async def test_a_program_ends_when_its_stage_is_told_to(folder: Path) -> None:
    async with started(folder) as machine:
        await machine.said()
        machine.go(READY)
        await machine.said()
        machine.process.terminate()
        assert "drained" in await machine.printed()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"type":"go"}',
        b'{"type":"go","vmId":"v","tenant":"t","now":1,"entropy":"ab"}',
        b'{"type":"go","vmId":"v","tenant":"t","now":1,"entropy":"' + b"zz" * 32 + b'"}',
        b'{"type":"go","vmId":"v","tenant":"t","now":1,"link":"nats://x","entropy":"'
        + ENTROPY.encode() + b'"}',
        b'{"type":"go","vmId":"v","tenant":"t","now":1,"config":{"source":7},"entropy":"'
        + ENTROPY.encode() + b'"}',
    ],
)  # fmt: skip
async def test_a_go_that_cannot_be_read_ends_the_stage_with_the_reason(
    folder: Path, line: bytes
) -> None:
    async with started(folder) as machine:
        await machine.said()
        machine.say(line)
        assert "no go:" in await machine.printed()
    assert machine.process.returncode == 69


async def test_a_program_that_fails_leaves_its_traceback_on_the_console(folder: Path) -> None:
    async with started(folder) as machine:
        await machine.said()
        machine.go("raise RuntimeError('of the program')")
        assert "RuntimeError: of the program" in await machine.printed()
    assert machine.process.returncode == 1


async def test_without_a_program_the_stage_says_so(folder: Path) -> None:
    async with started(folder) as machine:
        await machine.said()
        machine.go("")
        assert "no program" in await machine.printed()
    assert machine.process.returncode == 1


async def test_in_a_sandbox_the_stage_says_what_it_could_not_do(folder: Path) -> None:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        pytest.fail("bubblewrap is needed: apt-get install bubblewrap")
    jail = (
        bwrap, "--unshare-all", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL",
        "--die-with-parent", "--ro-bind", "/", "/", "--bind", str(folder), str(folder),
        "--proc", "/proc", "--dev", "/dev",
    )  # fmt: skip
    async with started(folder, *jail, own_kernel=True) as machine:
        await machine.said()
        machine.go(READY)
        ready = await machine.said()
        machine.say({"type": "stop"})
        await machine.printed()
    undone = ready["undone"]
    assert isinstance(undone, list)
    named = {one.partition(":")[0] for one in undone}
    assert named == {"memory", "randomness of the kernel", "clock", "kernel modules", "root"}
