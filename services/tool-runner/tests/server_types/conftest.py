"""Real counterparts of server types, started here: a Docker engine, a Prometheus."""

import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.docker_engine import Engine, running_engine, wait_for
from tests.peers import require

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorObject
from mcp_proto.server_types import server_problem
from tool_runner.server_types.factory import MAKERS
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.http import HttpSettings
from tool_runner.upstreams.http_link import LinkSettings
from tool_runner.upstreams.upstream import Request


class Called:
    """A started server of one of our types, and calls to it in few words."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.offer: Any = None

    @property
    def tools(self) -> dict[str, dict[str, Any]]:
        return {tool.name: json.loads(bytes(tool.definition)) for tool in self.offer.tools}

    async def result(self, tool: str, *, timeout_s: float = 20.0, **arguments: Any) -> Any:
        params = msgspec.json.encode({"name": tool, "arguments": arguments})
        request = Request(method="tools/call", params=msgspec.Raw(params), timeout_s=timeout_s)
        answer = await self.server.call(request)
        assert not isinstance(answer, ErrorObject)
        return json.loads(answer)

    async def __call__(self, tool: str, **arguments: Any) -> Any:
        """Structured content of a call that goes well."""
        result = await self.result(tool, **arguments)
        assert not result.get("isError"), result["content"][0]["text"]
        assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
        return result["structuredContent"]

    async def refusal(self, tool: str, **arguments: Any) -> str:
        """Text of a tool error."""
        result = await self.result(tool, **arguments)
        assert result.get("isError"), result
        return result["content"][0]["text"]


@pytest.fixture
async def deploy() -> AsyncIterator[Callable[..., Any]]:
    """Start a server of a type: ``await deploy("docker", settings={…})``."""
    started: list[Any] = []

    async def start(
        kind: str, *, trusted: bool = True, check_s: float = 30.0, **fields: Any
    ) -> Called:
        definition = ServerDefinition(name=kind, type=kind, **fields)
        assert server_problem(definition) is None, server_problem(definition)
        network = NetworkSettings(
            http=HttpSettings(check_s=check_s), link=LinkSettings(connect_s=2.0)
        )
        server = MAKERS[kind](definition, network, trusted)
        started.append(server)
        called = Called(server)
        called.offer = await server.start()
        return called

    yield start
    for server in started:
        await server.close()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine with one image, which holds busybox and ``shell_server.sh``."""
    with running_engine() as running:
        yield running


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prometheus that scrapes itself, and something that is not there."""
    program = require("prometheus")
    room = tmp_path_factory.mktemp("prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (room / "rules.yml").write_text(RULES)
    (room / "prometheus.yml").write_text(CONFIG % port)
    command = [program, f"--config.file={room}/prometheus.yml",
               f"--storage.tsdb.path={room}/data",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    log = room / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        # Two scrapes and an evaluated rule: from then on every tool has something to say.
        wait_for(lambda: _fires(url), process, log)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _fires(url: str) -> bool:
    query = urllib.parse.quote('up{job="self"} == 1 and on() ALERTS{alertstate="firing"}')
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?query={query}", timeout=2) as answer:
            return bool(json.load(answer)["data"]["result"])
    except OSError:
        return False


CONFIG = """
global: {scrape_interval: 200ms, evaluation_interval: 200ms}
rule_files: [rules.yml]
scrape_configs:
  - job_name: self
    static_configs: [{targets: ["127.0.0.1:%d"]}]
  - job_name: gone
    params: {token: [hidden]}
    static_configs: [{targets: ["127.0.0.1:9"]}]
"""
RULES = """
groups:
  - name: watch
    rules:
      - alert: Gone
        expr: up == 0
        labels: {severity: page}
        annotations: {summary: "{{ $labels.job }} is gone"}
      - record: targets:up
        expr: sum(up)
"""
