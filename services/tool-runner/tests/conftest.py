"""Fixtures of the runner's tests: scripted servers, and upstreams that are closed at the end."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorObject
from mesh_chassis.children import Children
from tool_runner.upstreams.stdio import StdioSettings, StdioUpstream
from tool_runner.upstreams.upstream import Request

EVIL = Path(__file__).parent / "evil_server.py"


class Recorder:
    """A ``Listener`` that can be waited for."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()

    def lists_changed(self) -> None:
        self.changed.set()

    def resource_updated(self, params: msgspec.Raw) -> None:
        pass


class Rig:
    """Starts upstreams and calls them in few words."""

    def __init__(self) -> None:
        self.children = Children()
        self.listener = Recorder()
        self.upstreams: list[StdioUpstream] = []

    @staticmethod
    def evil(mode: str = "ok", **fields: object) -> ServerDefinition:
        definition = ServerDefinition(name="evil", command=sys.executable, args=(str(EVIL), mode))
        return msgspec.structs.replace(definition, **fields)

    def make(
        self, definition: ServerDefinition, *, start_timeout_s: float = 10.0, legacy: bool = False
    ) -> StdioUpstream:
        upstream = StdioUpstream(
            definition,
            self.children,
            self.listener,
            settings=StdioSettings(start_timeout_s=start_timeout_s),
            legacy=legacy,
        )
        self.upstreams.append(upstream)
        return upstream

    async def started(self, mode: str = "ok", **fields: object) -> StdioUpstream:
        upstream = self.make(self.evil(mode, **fields))
        await upstream.start()
        return upstream

    @staticmethod
    def request(
        tool: str,
        *,
        timeout_s: float = 5.0,
        meta: dict[str, object] | None = None,
        notify: Callable[[bytes], Awaitable[None]] | None = None,
        **arguments: object,
    ) -> Request:
        params: dict[str, object] = {"name": tool, "arguments": arguments}
        if meta is not None:
            params["_meta"] = meta
        return Request(
            method="tools/call",
            params=msgspec.Raw(msgspec.json.encode(params)),
            timeout_s=timeout_s,
            notify=notify,
        )

    async def call(self, upstream: StdioUpstream, tool: str, **more: object) -> str:
        """Text of the first content item."""
        answer = await upstream.call(self.request(tool, **more))  # type: ignore[arg-type]
        assert not isinstance(answer, ErrorObject), answer
        return msgspec.json.decode(answer)["content"][0]["text"]


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def marked(marker: str) -> list[int]:
    """Living processes with this text in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "environ").read_bytes() and alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    one = Rig()
    yield one
    for upstream in one.upstreams:
        await upstream.close()
    await one.children.close()


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


@pytest.fixture
def find_marked() -> Callable[[str], list[int]]:
    return marked


@pytest.fixture
def gone() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until a condition no longer holds, for at most three seconds."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(3):
            while condition():  # noqa: ASYNC110 - what is waited for lives in other processes
                await asyncio.sleep(0.01)

    return wait
