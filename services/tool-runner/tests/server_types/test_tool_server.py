import asyncio
import json
from collections.abc import Sequence

import msgspec
import pytest

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.tool_spec import ToolSpec
from tool_runner.core.toolbox import ToolResult, success
from tool_runner.server_types.tool_server import ServedTool, ToolServer
from tool_runner.upstreams.upstream import Request


class Doubler(ToolServer):
    opened = closed = 0

    async def _open(self) -> None:
        self.opened += 1

    async def _close(self) -> None:
        self.closed += 1

    async def _list(self) -> Sequence[ServedTool]:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        return [
            ServedTool(
                ToolSpec(name="double", title="", description="", input_schema=schema), self.double
            ),
            ServedTool(
                ToolSpec(name="hang", title="", description="", input_schema={"type": "object"}),
                self.hang,
            ),
        ]

    async def double(self, request: Request, arguments: msgspec.Raw) -> ToolResult:
        return success(b'{"n":%d}' % (2 * msgspec.json.decode(arguments)["n"]))

    async def hang(self, request: Request, arguments: msgspec.Raw) -> ToolResult:
        await asyncio.get_running_loop().create_future()
        raise AssertionError


def request(name: str, arguments: str = "{}", *, method: str = "tools/call") -> Request:
    params = b'{"name":%b,"arguments":%b}' % (json.dumps(name).encode(), arguments.encode())
    return Request(method=method, params=msgspec.Raw(params), timeout_s=0.2)


@pytest.fixture
async def server():
    made = Doubler(ServerDefinition(name="d", type="doubler"))
    await made.start()
    yield made
    await made.close()
    assert made.closed == made.opened == 1


async def test_server_lists_and_runs_its_tools(server: Doubler) -> None:
    offer = await server.read_offer()
    assert [tool.name for tool in offer.tools] == ["double", "hang"]
    assert b"outputSchema" not in bytes(offer.tools[0].definition)
    answer = await server.call(request("double", '{"n":21}'))
    assert isinstance(answer, bytes)
    assert json.loads(answer)["structuredContent"] == {"n": 42}


async def test_arguments_that_do_not_fit_are_a_tool_error_that_names_the_path(
    server: Doubler,
) -> None:
    answer = await server.call(request("double", '{"n":"x"}'))
    assert isinstance(answer, bytes)
    result = json.loads(answer)
    assert result["isError"] is True
    assert "n: " in result["content"][0]["text"]


async def test_a_tool_that_never_ends_is_ended_at_the_deadline(server: Doubler) -> None:
    with pytest.raises(MeshError) as raised:
        await server.call(request("hang"))
    assert raised.value.kind is ErrorKind.DEADLINE
    assert raised.value.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (request("nothing"), ErrorKind.PARAMS),
        (request("double", method="prompts/get"), ErrorKind.METHOD),
    ],
)
async def test_what_it_does_not_have_is_refused(
    server: Doubler, asked: Request, kind: ErrorKind
) -> None:
    with pytest.raises(MeshError) as raised:
        await server.call(asked)
    assert raised.value.kind is kind


async def test_its_life_ends_with_the_reason_given_first(server: Doubler) -> None:
    server._end("lost its engine")
    server.kill()
    assert await server.wait_ended() == "lost its engine"
