"""A hosted server's lives, with real children."""

import asyncio

import pytest

from mcp_proto.contracts.registry import Catalog
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
