"""A whole mesh with an external verifier, prompted by and prompting the Synadia SDKs."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import nats
import pytest
from synadia_ai.agent_service import AgentService, PromptStream
from synadia_ai.agents import Agents, DiscoverFilter, Envelope, ProtocolError, ResponseChunk
from tests.e2e.running_mesh import RunningMesh

CONFIG = """
[integrations.marketeer]
enabled = true
verify_all_requests = true
url = "{url}"
api_key = "${{VERIFIER_KEY}}"
cache_seconds = 0

[[synadia.expose]]
server = "time"
tool = "get_current_time"
argument = "timezone"
session = "now"
"""


class Verifier(ThreadingHTTPServer):
    """Denies what is in ``denied``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Decide)
        self.denied: set[str] = set()
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Decide(BaseHTTPRequestHandler):
    server: Verifier

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.keys.add(self.headers["authorization"])
        decision = "deny" if question["name"] in self.server.denied else "allow"
        body = json.dumps({"decision": decision, "reason": "not on Fridays"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def mesh(verifier: Verifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    config = CONFIG.format(url=verifier.url)
    room = tmp_path_factory.mktemp("around") / "room"
    running = RunningMesh(room, config=config, env={"VERIFIER_KEY": "s3cret-of-ours"})
    running.start()
    try:
        yield running
    finally:
        code = running.stop()
    assert code == 0, running.logs()


async def prompted(mesh: RunningMesh, text: str) -> str:
    """What the guide does."""
    client = await nats.connect(mesh.nats, nkeys_seed=mesh.seed("demo"))
    agents = Agents(nc=client)
    try:
        (clock,) = await agents.discover(filter=DiscoverFilter(agent="time"), stall=0.3)
        said = ""
        async for chunk in clock.prompt(text, timeout=10):
            if isinstance(chunk, ResponseChunk):
                said += chunk.text
        return said
    finally:
        await agents.close()
        await client.close()


@pytest.mark.slow
def test_a_caller_of_the_protocol_prompts_a_server_and_the_verifier_may_forbid_it(
    mesh: RunningMesh, verifier: Verifier
) -> None:
    said = asyncio.run(prompted(mesh, "UTC"))
    assert json.loads(said)["timezone"] == "UTC"
    verifier.denied = {"get_current_time"}
    try:
        with pytest.raises(ProtocolError, match=r"403: the verifier refuses: not on Fridays"):
            asyncio.run(prompted(mesh, "UTC"))
        refused = mesh.mesh("call", "time__get_current_time", "timezone=UTC", check=False)
        assert refused.returncode != 0
        assert "not on Fridays" in refused.stdout + refused.stderr
    finally:
        verifier.denied = set()
    assert verifier.keys == {"Bearer s3cret-of-ours"}
    for path in (mesh.state / "config").glob("*.toml"):
        assert "s3cret-of-ours" not in path.read_text()


@pytest.mark.slow
def test_agents_of_the_protocol_are_tools_of_a_deployed_server(mesh: RunningMesh) -> None:
    async def echo(envelope: Envelope, stream: PromptStream) -> None:
        await stream.send(f"echo: {envelope.prompt}")

    async def run() -> tuple[str, str]:
        client = await nats.connect(mesh.nats, nkeys_seed=mesh.seed("operator"))
        service = AgentService(agent="echo", owner="acme", session_name="main", nc=client)
        service.on_prompt(echo)
        await service.start()
        try:
            added = await asyncio.to_thread(
                mesh.mesh, "server", "add", "agents", "--type", "synadia"
            )
            called = await asyncio.to_thread(
                mesh.mesh, "call", "agents__echo_acme_main", "prompt=hello"
            )
            return added.stdout, called.stdout
        finally:
            await service.stop()
            await client.close()

    added, called = asyncio.run(run())
    assert "added agents: 1 tool" in added
    assert "echo: hello" in called
