"""A prison: sandboxed servers that do what they are told, started the way a runner starts them."""

import os
import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tests.peers import require

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorObject
from mcp_proto.sandboxes import SandboxOptions, SandboxTable
from mesh_chassis.children import Children
from mesh_chassis.sandbox.launch import Sandboxes
from mesh_chassis.sandbox.syscalls import MACHINES
from tool_runner.upstreams.factory import Life, NetworkSettings, make
from tool_runner.upstreams.stdio import StdioSettings
from tool_runner.upstreams.upstream import Request
from tool_runner.upstreams.walls import SandboxSettings

PRISONER = Path(__file__).parent / "prisoner_server.py"
SECRET = f"secret-{uuid.uuid4()}"


class Listener:
    def lists_changed(self) -> None:
        pass

    def resource_updated(self, params: msgspec.Raw) -> None:
        pass


class Prison:
    """Sandboxed servers, and a tool call to one of them in few words."""

    def __init__(self, folder: Path) -> None:
        self.children = Children()
        self.server = folder / "prisoner_server.py"
        shutil.copy(PRISONER, self.server)
        self.server.chmod(0o644)
        self.keys = folder / "keys"
        self.keys.mkdir(mode=0o700)
        self.seed = self.keys / "runner-1.nk"
        self.seed.write_text(SECRET)
        self.sandboxes = Sandboxes(self.children, secrets=(str(self.seed),))
        self.lives: list[Life] = []

    def definition(self, **options: object) -> ServerDefinition:
        return ServerDefinition(
            name="prisoner",
            command=sys.executable,
            args=(str(self.server),),
            era="legacy",
            isolation="sandbox",
            sandbox=SandboxOptions(**options),
        )

    async def start(self, definition: ServerDefinition, *, trusted: bool = True) -> Life:
        settings = SandboxSettings(
            sandboxes=self.sandboxes, table=SandboxTable(memory_mb=256, tmp_mb=16, pids=48)
        )
        life = make(
            definition,
            self.children,
            Listener(),
            stdio=StdioSettings(start_timeout_s=10.0, sandbox=settings),
            network=NetworkSettings(),
            trusted=trusted,
            legacy=True,
        )
        self.lives.append(life)
        await life.start()
        return life

    async def tell(self, life: Life, code: str, timeout_s: float = 10.0) -> object:
        params = msgspec.json.encode({"name": "python", "arguments": {"code": code}})
        answer = await life.call(
            Request(method="tools/call", params=msgspec.Raw(params), timeout_s=timeout_s)
        )
        assert not isinstance(answer, ErrorObject), answer
        return msgspec.json.decode(msgspec.json.decode(answer)["content"][0]["text"])

    @staticmethod
    def below(pid: int) -> list[int]:
        """Processes below this one, parents before children."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry.name)] = int(fields[1])
        found = [pid]
        for one in found:
            found += [child for child, parent in parents.items() if parent == one]
        return found[1:]

    async def close(self) -> None:
        for life in self.lives:
            await life.close()
        await self.children.close()


class Inside:
    """One sandboxed server that most attempts share; none of them can change it."""

    secret = SECRET
    machine = MACHINES.get(os.uname().machine)

    def number(self, name: str) -> int:
        """Of a system call."""
        assert self.machine is not None
        return self.machine.numbers[name]

    def __init__(self, prison: Prison, life: Life) -> None:
        self._prison = prison
        self._life = life

    async def does(self, code: str) -> object:
        return await self._prison.tell(self._life, code)

    async def is_refused(self, code: str, *names: str) -> None:
        said = await self.does(code)
        assert isinstance(said, str), said
        assert said in {f"refused: {name}" for name in names or ("EPERM",)}, said


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prison(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prison]:
    require("bwrap")
    os.environ["MESH_TEST_SECRET"] = SECRET
    one = Prison(tmp_path_factory.mktemp("prison"))
    report = await one.sandboxes.probe()
    if not report.available:
        assert not os.environ.get("CI"), report.reason
        await one.close()
        pytest.skip(f"sandboxes do not work here: {report.reason}")
    yield one
    await one.close()
    del os.environ["MESH_TEST_SECRET"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inside(prison: Prison) -> Inside:
    return Inside(prison, await prison.start(prison.definition()))
