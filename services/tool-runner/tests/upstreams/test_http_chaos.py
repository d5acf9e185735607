"""HTTP upstreams behind a network that cuts, drips and swallows."""

import asyncio
from typing import Any

import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome

pytestmark = pytest.mark.slow


class Relay:
    """Passes bytes between an upstream and a server, until it is told to do worse."""

    def __init__(self, url: str) -> None:
        self._port = int(url.split(":")[2].split("/", maxsplit=1)[0])
        self.cut_after: int | None = None
        self.drips = False
        self.swallows = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(self._pass(reader, far_writer, worse=False))
                down = group.create_task(self._pass(far_reader, writer, worse=True))
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
                up.cancel()
                down.cancel()
        finally:
            far_writer.close()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, worse: bool
    ) -> None:
        while data := await source.read(65536):
            if worse and self.swallows:
                continue
            if worse and self.cut_after is not None:
                sink.write(data[: self.cut_after])
                await sink.drain()
                sink.transport.abort()
                return
            if worse and self.drips:
                for at in range(len(data)):
                    sink.write(data[at : at + 1])
                    await asyncio.sleep(0.05)
            sink.write(data)
            await sink.drain()


async def through(net: Any, era: str) -> tuple[Relay, Any]:
    _, url = await getattr(net, era)()
    relay = Relay(url)
    port = await net.listen(relay)
    return relay, await net.started(f"http://127.0.0.1:{port}/mcp")


@pytest.mark.parametrize("era", ["old", "new"])
@pytest.mark.parametrize("at", [0, 20, 150, 200])
async def test_call_is_of_unknown_outcome_when_its_answer_is_cut(net, era: str, at: int) -> None:
    relay, upstream = await through(net, era)
    relay.cut_after = at
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "echo", text="x" * 100)
    assert (caught.value.kind, caught.value.outcome) == (ErrorKind.UPSTREAM, Outcome.UNKNOWN)


@pytest.mark.parametrize("era", ["old", "new"])
@pytest.mark.parametrize("how", ["drips", "swallows"])
async def test_call_ends_at_its_limit_when_the_network_stalls(net, era: str, how: str) -> None:
    relay, upstream = await through(net, era)
    setattr(relay, how, True)
    began = asyncio.get_running_loop().time()
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "echo", timeout_s=0.4)
    assert caught.value.kind is ErrorKind.DEADLINE
    assert asyncio.get_running_loop().time() - began < 0.9


async def test_life_ends_when_the_server_no_longer_says_anything(net) -> None:
    relay, upstream = await through(net, "new")
    relay.swallows = True
    async with asyncio.timeout(8):
        assert "did not answer" in await upstream.wait_ended()
