import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_types import server_problem
from mesh_chassis.children import Children
from tool_runner.server_types.factory import make
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.stdio import StdioSettings
from tool_runner.upstreams.upstream import Request

PY = sys.executable
ARGV = "import sys, json; json.dump(sys.argv[1:], sys.stdout)"


def strings(*names: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": list(names),
        **more,
    }


def definition(*tools: dict[str, Any], **settings: Any) -> ServerDefinition:
    return ServerDefinition(name="cmd", type="command", settings={"tools": list(tools), **settings})


class Bench:
    """Starts command servers and calls them in few words."""

    def __init__(self) -> None:
        self.children = Children()
        self._servers: list[Any] = []

    async def started(self, *tools: dict[str, Any], **settings: Any) -> Any:
        defined = definition(*tools, **settings)
        assert server_problem(defined) is None
        server = make(
            defined,
            self.children,
            None,  # type: ignore[arg-type] - it tells nobody anything
            stdio=StdioSettings(),
            network=NetworkSettings(),
            trusted=True,
        )
        self._servers.append(server)
        self.offer = await server.start()
        return server

    @staticmethod
    async def call(
        server: Any, tool: str = "t", timeout_s: float = 10.0, **arguments: Any
    ) -> dict[str, Any]:
        params = msgspec.json.encode({"name": tool, "arguments": arguments})
        answer = await server.call(
            Request(method="tools/call", params=msgspec.Raw(params), timeout_s=timeout_s)
        )
        return json.loads(answer)

    async def text(self, server: Any, **arguments: Any) -> str:
        result = await self.call(server, **arguments)
        assert "isError" not in result, result
        return result["content"][0]["text"]

    async def error(self, server: Any, **arguments: Any) -> str:
        result = await self.call(server, **arguments)
        assert result.get("isError") is True, result
        return result["content"][0]["text"]

    async def close(self) -> None:
        for server in self._servers:
            await server.close()
        await self.children.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    one = Bench()
    yield one
    await one.close()


def python(code: str, *words: str, **more: Any) -> dict[str, Any]:
    return {"name": "t", "argv": [PY, "-c", code, *words], **more}


# What a value may become


async def test_value_fills_exactly_one_element_whatever_it_holds(bench: Bench) -> None:
    server = await bench.started(python(ARGV, "a{x}b", "{{}}", "{y}", parameters=strings("x", "y")))
    hostile = '"; rm -rf / #\n$(id) `id` {y} {{'
    said = await bench.text(server, x=hostile, y="ü * ?")
    assert json.loads(said) == [f"a{hostile}b", "{}", "ü * ?"]


async def test_numbers_booleans_and_defaults_are_written_as_a_person_would(bench: Bench) -> None:
    kinds = {
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "f": {"type": "number"},
            "b": {"type": "boolean", "default": True},
        },
        "required": ["n", "f"],
    }
    server = await bench.started(python(ARGV, "{n}", "{f}", "{b}", parameters=kinds))
    assert json.loads(await bench.text(server, n=3, f=1.5)) == ["3", "1.5", "true"]


@pytest.mark.parametrize("value", ["-rf", "--output=/etc/passwd", "-"])
async def test_value_that_would_be_read_as_an_option_is_refused(bench: Bench, value: str) -> None:
    server = await bench.started(python(ARGV, "{x}", parameters=strings("x")))
    assert "x: a value that begins with '-'" in await bench.error(server, x=value)


async def test_empty_first_placeholder_does_not_open_the_door_to_an_option(bench: Bench) -> None:
    server = await bench.started(python(ARGV, "{x}{y}", parameters=strings("x", "y")))
    assert "would be read as an option" in await bench.error(server, x="", y="--help")


async def test_negative_number_is_no_option_only_where_the_template_says_so(bench: Bench) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    server = await bench.started(
        python(ARGV, "{n}", parameters=schema),
        python(ARGV, "{n}", parameters=schema, allow_dash=["n"]) | {"name": "u"},
    )
    assert "n: a value" in await bench.error(server, n=-1)
    assert json.loads(await bench.text(server, tool="u", n=-1)) == ["-1"]


async def test_dash_is_free_after_a_double_dash_and_inside_an_element(bench: Bench) -> None:
    server = await bench.started(python(ARGV, "--f={x}", "--", "{x}", parameters=strings("x")))
    assert json.loads(await bench.text(server, x="-v")) == ["--f=-v", "--", "-v"]


async def test_double_dash_of_a_caller_ends_no_options(bench: Bench) -> None:
    server = await bench.started(python(ARGV, "a{x}", "{y}", parameters=strings("x", "y")))
    assert "y: a value" in await bench.error(server, x="--", y="--z")


@pytest.mark.parametrize(
    ("value", "said"), [("a\0b", "NUL"), ("x" * 70_000, "at most 65536 bytes")]
)
async def test_value_that_no_command_line_can_hold_is_a_tool_error(
    bench: Bench, value: str, said: str
) -> None:
    server = await bench.started(python(ARGV, "{x}", parameters=strings("x")))
    assert said in await bench.error(server, x=value)


async def test_argument_that_the_template_does_not_know_is_refused(bench: Bench) -> None:
    server = await bench.started(python(ARGV, "{x}", parameters=strings("x")))
    assert "Invalid arguments for t" in await bench.error(server, x="1", z="2")


# Input, output, end


async def test_standard_input_is_fed_and_structured_values_come_as_json(bench: Bench) -> None:
    schema = {"type": "object", "properties": {"v": {"type": ["object", "string"]}}}
    code = "import sys; print(sys.stdin.read().upper(), end='')"
    server = await bench.started(python(code, stdin="got {v}", parameters=schema))
    assert await bench.text(server, v="hi") == "GOT HI"
    assert await bench.text(server, v={"a": [1]}) == 'GOT {"A":[1]}'


async def test_input_that_a_program_does_not_read_harms_nothing(bench: Bench) -> None:
    server = await bench.started(python("print('ok')", stdin="{x}", parameters=strings("x")))
    assert await bench.text(server, x="x" * 3_000_000) == "ok\n"


async def test_json_output_becomes_structured_content_that_keeps_its_promise(bench: Bench) -> None:
    promised = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    server = await bench.started(
        python("import sys; print(sys.argv[1])", "{x}", parameters=strings("x"), output="json",
               result=promised)
    )  # fmt: skip
    result = await bench.call(server, x='{"n":1}')
    assert result["structuredContent"] == {"n": 1}
    for wrong in ('{"n":"one"}', "{}", "[1]", "nonsense", ""):
        said = await bench.error(server, x=wrong)
        assert "ran, but" in said


async def test_lines_are_a_list(bench: Bench) -> None:
    server = await bench.started(python("print('a'); print('b')", output="lines"))
    assert (await bench.call(server))["structuredContent"] == {"lines": ["a", "b"]}


async def test_exit_status_is_an_error_with_the_end_of_standard_error(bench: Bench) -> None:
    code = "import sys; sys.stderr.write('x' * 9000 + ' no such ref'); sys.exit(3)"
    server = await bench.started(python(code), python(code) | {"name": "u", "exit_ok": [0, 3]})
    said = await bench.error(server)
    assert "ended with status 3" in said
    assert said.endswith("no such ref")
    assert len(said) < 5_000
    assert "isError" not in await bench.call(server, "u")


async def test_program_that_dies_of_a_signal_says_which(bench: Bench) -> None:
    server = await bench.started(python("import os; os.abort()"))
    assert "by signal 6" in await bench.error(server)


async def test_output_without_end_is_bounded_and_the_program_ended(
    bench: Bench, gone: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    code = "while True: print('y' * 1000)"
    server = await bench.started(python(code, output_bytes=5_000))
    assert "more than 5000 bytes" in await bench.error(server)
    await gone(lambda: len(bench.children))


async def test_time_out_kills_everything_the_program_started(
    bench: Bench, tmp_path: Path, gone: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(600)'], start_new_session=True); time.sleep(600)"
    )
    server = await bench.started(python(code, timeout_s=0.5, cwd=str(tmp_path)))
    assert "ran for 0.5 s and was ended" in await bench.error(server)
    await gone(lambda: len(bench.children))


async def test_cancelled_call_kills_its_program(
    bench: Bench, gone: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    server = await bench.started(python("import time; time.sleep(600)"))
    call = asyncio.ensure_future(bench.call(server))
    await gone(lambda: not len(bench.children))
    call.cancel()
    await asyncio.wait([call])
    await gone(lambda: len(bench.children))


async def test_deadline_of_the_call_is_one_with_unknown_outcome(bench: Bench) -> None:
    server = await bench.started(python("import time; time.sleep(600)"))
    with pytest.raises(MeshError) as raised:
        await bench.call(server, timeout_s=0.3)
    assert raised.value.kind is ErrorKind.DEADLINE
    assert raised.value.outcome is Outcome.UNKNOWN


async def test_server_that_closes_leaves_no_program(
    bench: Bench, gone: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    server = await bench.started(python("import time; time.sleep(600)"))
    call = asyncio.ensure_future(bench.call(server))
    await gone(lambda: not server._running)
    await server.close()
    assert not len(bench.children)
    assert (await call)["isError"] is True
    with pytest.raises(MeshError):
        await bench.call(server)
    assert not len(bench.children)


async def test_no_more_programs_run_at_once_than_allowed(bench: Bench, tmp_path: Path) -> None:
    code = (
        "import os, sys, time; d = sys.argv[1]; f = d + '/' + str(os.getpid()); "
        "open(f, 'x').close(); n = len(os.listdir(d)); time.sleep(0.05); os.unlink(f); print(n)"
    )
    server = await bench.started(python(code, str(tmp_path)), processes=2)
    seen = await asyncio.gather(*(bench.text(server) for _ in range(6)))
    assert max(map(int, seen)) <= 2


async def test_program_sees_a_small_environment_and_the_declared_secret(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_SECRET", "s3cret")
    monkeypatch.setenv("TOKEN_FOR_IT", "t0ken")
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    server = await bench.started(
        python(code, output="json", env={"TOKEN": "env:TOKEN_FOR_IT", "PLAIN": "1"})
    )
    seen = (await bench.call(server))["structuredContent"]
    assert seen["TOKEN"] == "t0ken"
    assert seen["PLAIN"] == "1"
    assert "s3cret" not in seen.values()


async def test_memory_of_a_program_is_bounded(bench: Bench) -> None:
    server = await bench.started(python("b'x' * (1 << 30)"), memory_bytes=512 * 1024 * 1024)
    assert "MemoryError" in await bench.error(server)


# Definitions


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"argv": ["no-such-program-anywhere"]}, "argv[0]: no program"),
        ({"argv": ["true"], "cwd": "/no/such/place"}, "cwd: /no/such/place is no directory"),
        ({"argv": ["cat"], "stdin": "{a}", "parameters": {"type": "object", "properties":
          {"a": {"type": "strng"}}}}, "settings.tools[0]: "),
    ],
)  # fmt: skip
async def test_server_that_cannot_work_does_not_start(
    bench: Bench, tool: dict[str, Any], said: str
) -> None:
    with pytest.raises(MeshError) as raised:
        await bench.started({"name": "t", **tool})
    assert said in raised.value.message
    assert raised.value.outcome is Outcome.NOT_EXECUTED


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"argv": []}, "$.tools[0].argv"),
        ({"argv": ["a"], "shell": True}, "unknown field `shell`"),
        ({"argv": ["a"], "timeout_s": 0}, "$.tools[0].timeout_s"),
        ({"argv": ["{x}"], "parameters": strings("x")}, "argv[0]: the program is fixed"),
        ({"argv": ["a", "{x}"]}, "argv[1]: {x} is not in parameters.properties"),
        ({"argv": ["a", "{x"]}, "argv[1]: '{x'"),
        ({"argv": ["a", "{x}"], "parameters": strings("x") | {"required": []}},
         "{x} must be required or have a default"),
        ({"argv": ["a", "{x}"], "parameters": {"type": "object", "properties":
          {"x": {"type": "array"}}, "required": ["x"]}}, "fills one element"),
        ({"argv": ["a"], "parameters": strings("x")}, "parameters.properties.x is used nowhere"),
        ({"argv": ["a"], "parameters": {"type": "array"}}, 'its type must be "object"'),
        ({"argv": ["a"], "allow_dash": ["x"]}, "allow_dash: x is no placeholder"),
        ({"argv": ["a"], "cwd": "here"}, "cwd must be an absolute path"),
        ({"argv": ["a"], "env": {"A B": "1"}}, "env: 'A B'"),
        ({"argv": ["a"], "result": {"type": "object"}}, 'result: for output "json"'),
        ({"argv": ["a\0"]}, "no NUL"),
        ({"name": "two words", "argv": ["a"]}, "$.tools[0].name"),
    ],
)  # fmt: skip
def test_definition_that_is_wrong_is_refused_with_its_path(tool: dict[str, Any], said: str) -> None:
    assert said in (server_problem(definition({"name": "t", **tool})) or "")


def test_definition_without_tools_or_with_two_of_one_name_is_refused() -> None:
    assert "one to 128 tools" in (server_problem(definition()) or "")
    twice = ({"name": "t", "argv": ["a"]},) * 2
    assert "tools[1].name" in (server_problem(definition(*twice)) or "")
