"""Bridges as upstreams: a stdio server they put on HTTP or SSE, added to the mesh by its address.

What they lose is theirs: both programs named mcp-proxy tell their server of no capability of any
client, so its asking tools are not there; the Python one drops progress over streamable HTTP, and
the npm one may lose what comes last before the answer.
"""

import asyncio
import shlex

import msgspec
import pytest
from tests.e2e.running_mesh import RunningMesh
from tests.interop import peers
from tests.interop.usage import BOTH, answer_questions, client_of, use

pytestmark = [pytest.mark.timeout(150), pytest.mark.slow]


class Bridge(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge before a stdio server.

    Attributes:
        command: its words; ``SERVER`` stands for the server's words in one, ``SERVER…`` for them.
        asks: the server can ask its client through it.
        progress: it hands progress on.
    """

    command: tuple[str, ...]
    transport: str = "http"
    asks: bool = False
    progress: bool = True


SUPERGATEWAY = (peers.NODE, peers.SUPERGATEWAY, "--stdio", "SERVER", "--port", "PORT")
NPM = (peers.NODE, peers.NPM_MCP_PROXY, "--host", "127.0.0.1", "--port", "PORT", "--", "SERVER…")
PYTHON = (peers.OLD_MCP_PROXY, "--pass-environment", "--port", "PORT", "--", "SERVER…")
HTTP = ("--outputTransport", "streamableHttp")
BRIDGES = {
    "supergateway": Bridge(command=(*SUPERGATEWAY, *HTTP, "--stateful"), asks=True),
    "supergateway-stateless": Bridge(command=(*SUPERGATEWAY, *HTTP)),
    "supergateway-sse": Bridge(
        command=(*SUPERGATEWAY, "--outputTransport", "sse"), transport="sse", asks=True
    ),
    "npm-mcp-proxy": Bridge(command=NPM),
    "npm-mcp-proxy-sse": Bridge(command=NPM, transport="sse"),
    "python-mcp-proxy": Bridge(command=PYTHON, progress=False),
    "python-mcp-proxy-sse": Bridge(command=PYTHON, transport="sse"),
}
QUICK = {"supergateway", "npm-mcp-proxy", "python-mcp-proxy-sse"}
"""One of each program; the others are of the same programs in other modes, and slow."""
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BRIDGES]


def words(bridge: Bridge) -> list[str]:
    server = [peers.NODE, peers.EVERYTHING, "stdio"]
    said: list[str] = []
    for word in bridge.command:
        said += server if word == "SERVER…" else [word.replace("SERVER", shlex.join(server))]
    return said


@pytest.mark.parametrize("kind", CASES)
async def test_server_behind_a_bridge_is_listed_and_called_by_clients_of_both_eras(
    installed: None, mesh: RunningMesh, kind: str
) -> None:
    bridge = BRIDGES[kind]
    name = f"bridged-{kind}"
    path = "/sse" if bridge.transport == "sse" else "/mcp"
    with peers.Serving(words(bridge), path=path) as serving:
        add = ("server", "add", name, serving.url, "--transport", bridge.transport)
        await asyncio.to_thread(mesh.mesh, *add)
        try:
            for mode in BOTH:
                async with client_of(mesh.mcp, mode) as client:
                    heard = await use(client, name)
                    if bridge.progress:
                        assert heard[:2] == [1, 2], mode
                    if bridge.asks:
                        await answer_questions(client, name)
        finally:
            await asyncio.to_thread(mesh.mesh, "server", "remove", name)
