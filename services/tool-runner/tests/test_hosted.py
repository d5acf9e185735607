"""A hosted server's lives, with real children."""

import asyncio
import sys

import pytest

from mcp_proto.contracts.registry import Catalog, ServerDefinition
from tool_runner.supervisor.hosted import HostedServer, HostSettings, ServerState
from tool_runner.upstreams.stdio import StdioUpstream
from tool_runner.upstreams.upstream import Offer


async def test_next_life_comes_when_a_start_fails_in_an_unforeseen_way(
    rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = 0
    start = StdioUpstream.start

    async def broken_once(upstream: StdioUpstream) -> Offer:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise RuntimeError("nobody thought of this")
        return await start(upstream)

    monkeypatch.setattr(StdioUpstream, "start", broken_once)
    listed = asyncio.Event()
    restarted: list[str] = []

    def on_catalog(catalog: Catalog) -> None:
        assert catalog.server == "evil"
        listed.set()

    hosted = HostedServer(rig.evil(), rig.children, HostSettings(), on_catalog, restarted.append)
    hosted.start()
    try:
        async with asyncio.timeout(10):
            await listed.wait()
        assert hosted.state is ServerState.RUNNING
        assert restarted == ["evil"]
    finally:
        await hosted.close(at_once=True)


@pytest.mark.slow
async def test_last_words_of_a_child_are_kept_while_it_waits_for_its_next_life(rig) -> None:
    words = "import sys; sys.stderr.write('no database\\nat all'); sys.exit(3)"
    definition = ServerDefinition(name="mute", command=sys.executable, args=("-c", words))
    hosted = HostedServer(definition, rig.children, HostSettings(), lambda _: None)
    hosted.start()
    try:
        await hosted.settled(10.0)
        assert hosted.state is ServerState.WAITING
        assert hosted.pid == 0
        assert hosted.log_tail(20) == ["no database", "at all"]
        assert hosted.log_tail(1) == ["at all"]
    finally:
        await hosted.close(at_once=True)
