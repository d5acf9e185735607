"""Bridges that people put before a stdio or an HTTP server, before us: a client calls through them.

What they lose is theirs, with any server: Python mcp-proxy drops progress over streamable HTTP, so
does supergateway as a client, and npm mcp-proxy may lose what comes last before the answer.
"""

import shlex
from collections.abc import Callable, Iterator

import msgspec
import pytest
from mcp import StdioServerParameters
from mcp.client.sse import sse_client
from tests.e2e.running_mesh import MESH, RunningMesh
from tests.interop import peers
from tests.interop.usage import BOTH, answer_questions, client_of, use

NAME = "frevery"
Command = Callable[[list[str]], list[str]]
pytestmark = [pytest.mark.timeout(150), pytest.mark.slow]


class Bridge(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge around the stdio edge.

    Attributes:
        command: its words, given those of the edge.
        modes: of the client behind it.
        asks: it hands requests of the server back to the client.
        progress: it hands progress on; where False, it is lost in the bridge.
    """

    command: Command
    path: str = "/mcp"
    modes: tuple[str, ...] = ("legacy",)
    asks: bool = False
    progress: bool = True


def supergateway(transport: str, *options: str) -> Command:
    own = ("--outputTransport", transport, "--port", "PORT", "--logLevel", "none")
    words = (peers.NODE, peers.SUPERGATEWAY, *own, *options, "--stdio")
    return lambda edge: [*words, shlex.join(edge)]


def npm_proxy(*options: str) -> Command:
    own = ("--host", "127.0.0.1", "--port", "PORT")
    return lambda edge: [peers.NODE, peers.NPM_MCP_PROXY, *own, *options, "--", *edge]


def python_proxy(edge: list[str]) -> list[str]:
    return [peers.OLD_MCP_PROXY, "--pass-environment", "--port", "PORT", "--", *edge]


BEFORE_STDIO = {
    "supergateway": Bridge(
        command=supergateway("streamableHttp", "--stateful"), modes=BOTH, asks=True
    ),
    "supergateway-stateless": Bridge(command=supergateway("streamableHttp"), modes=BOTH),
    "supergateway-sse": Bridge(command=supergateway("sse"), path="/sse", asks=True),
    "npm-mcp-proxy": Bridge(command=npm_proxy()),
    "npm-mcp-proxy-auto": Bridge(command=npm_proxy("--upstreamProtocol", "auto"), modes=BOTH),
    "npm-mcp-proxy-sse": Bridge(command=npm_proxy(), path="/sse"),
    "python-mcp-proxy": Bridge(command=python_proxy, modes=BOTH, progress=False),
    "python-mcp-proxy-sse": Bridge(command=python_proxy, path="/sse"),
}
QUICK = {"supergateway", "npm-mcp-proxy-auto", "python-mcp-proxy"}
"""One of each program; the others are of the same programs in other modes, and slow."""
STDIO_CASES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BEFORE_STDIO
]


@pytest.fixture(scope="module")
def served(installed: None, mesh: RunningMesh) -> Iterator[RunningMesh]:
    with peers.lent(mesh, {NAME: (peers.NODE, peers.EVERYTHING, "stdio")}):
        yield mesh


@pytest.fixture(scope="module")
def bridge(
    request: pytest.FixtureRequest, served: RunningMesh
) -> Iterator[tuple[Bridge, peers.Serving]]:
    kind = BEFORE_STDIO[request.param]
    edge = [MESH, "stdio", "--state", str(served.state)]
    with peers.Serving(kind.command(edge), path=kind.path) as one:
        yield kind, one


@pytest.mark.parametrize("bridge", STDIO_CASES, indirect=True)
async def test_client_lists_and_calls_through_a_bridge_before_the_stdio_edge(
    bridge: tuple[Bridge, peers.Serving],
) -> None:
    kind, serving = bridge
    for mode in kind.modes:
        target = sse_client(serving.url) if kind.path == "/sse" else serving.url
        async with client_of(target, mode) as client:
            heard = await use(client, NAME)
            if kind.progress:
                assert heard[:2] == [1, 2], mode
            if kind.asks:
                await answer_questions(client, NAME)


BEFORE_HTTP: dict[str, Callable[[str], StdioServerParameters]] = {
    "supergateway": lambda url: StdioServerParameters(
        command=peers.NODE,
        args=[peers.SUPERGATEWAY, "--streamableHttp", url, "--logLevel", "none"],
    ),
    "python-mcp-proxy": lambda url: StdioServerParameters(
        command=peers.OLD_MCP_PROXY, args=["--transport", "streamablehttp", url]
    ),
}


@pytest.mark.parametrize("name", BEFORE_HTTP)
async def test_stdio_client_lists_and_calls_through_a_bridge_before_the_http_edge(
    served: RunningMesh, name: str
) -> None:
    async with client_of(BEFORE_HTTP[name](served.mcp), "legacy") as client:
        await use(client, NAME)
