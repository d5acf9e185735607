import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_types import server_problem
from tool_runner.server_types.wasm import WasmServer
from tool_runner.upstreams.upstream import Request

Gone = Callable[[Callable[[], object]], Awaitable[None]]

WASI = "wasi_snapshot_preview1"

ECHO = f"""(module
  (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 65536))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"""
"""Writes what it reads."""

FLOOD = f"""(module
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const SIZE))
    (loop
      (drop (call $write (i32.const FD) (i32.const 0) (i32.const 1) (i32.const 12))) (br 0))))"""

ENDLESS = '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'
BOMB = """(module (memory (export "memory") 1) (func (export "_start")
  (loop (br_if 1 (i32.eq (memory.grow (i32.const 16)) (i32.const -1))) (br 0))
  ) (func (export "all") (loop
    (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br 0))))"""
DEEP = '(module (memory (export "memory") 1) (func $f (export "_start") (call $f)))'


def says(text: str, *, exit_with: int | None = None, fd: int = 1, extra: str = "") -> str:
    """A module that writes a text and may end with a status."""
    data = "".join(f"\\{byte:02x}" for byte in text.encode())
    end = "" if exit_with is None else f"(call $exit (i32.const {exit_with}))"
    return f"""(module
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (data (i32.const 64) "{data}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const {len(text.encode())}))
    (drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 12)))
    {extra} {end}))"""


class Bench:
    """Starts module servers and calls them in few words."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self._servers: list[WasmServer] = []

    def definition(self, source: str | bytes, **settings: Any) -> ServerDefinition:
        path = self._room / f"m{len(self._servers)}.wat"
        path.write_bytes(source.encode() if isinstance(source, str) else source)
        given = {"module": str(path), "tools": [{"name": "t"}], **settings}
        return ServerDefinition(name="box", type="wasm", settings=given)

    async def started(self, source: str | bytes, **settings: Any) -> WasmServer:
        defined = self.definition(source, **settings)
        assert server_problem(defined) is None
        server = WasmServer(defined, None, True)
        self._servers.append(server)
        await server.start()
        return server

    @staticmethod
    async def call(
        server: WasmServer, tool: str = "t", timeout_s: float = 20.0, **arguments: Any
    ) -> dict[str, Any]:
        params = msgspec.json.encode({"name": tool, "arguments": arguments})
        answer = await server.call(
            Request(method="tools/call", params=msgspec.Raw(params), timeout_s=timeout_s)
        )
        assert isinstance(answer, bytes)
        return json.loads(answer)

    async def error(self, server: WasmServer, **arguments: Any) -> str:
        result = await self.call(server, **arguments)
        assert result.get("isError") is True, result
        return result["content"][0]["text"]

    async def close(self) -> None:
        for server in self._servers:
            await server.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    one = Bench(tmp_path)
    yield one
    await one.close()


async def test_module_gets_its_arguments_and_its_output_is_the_result(bench: Bench) -> None:
    server = await bench.started(ECHO)
    result = await bench.call(server, a=[1, {"b": "ü"}])
    assert result["structuredContent"] == {"a": [1, {"b": "ü"}]}
    assert "isError" not in result


async def test_every_call_has_an_instance_of_its_own(bench: Bench) -> None:
    counting = says('{"n":0}', extra="").replace(
        "(i32.store (i32.const 0) (i32.const 64))",
        "(i32.store8 (i32.const 69) (i32.add (i32.load8_u (i32.const 69)) (i32.const 1)))"
        "(i32.store (i32.const 0) (i32.const 64))",
    )
    server = await bench.started(counting)
    for _ in range(3):
        assert (await bench.call(server))["structuredContent"] == {"n": 1}


async def test_tools_of_one_module_are_told_apart_by_function_or_arguments(bench: Bench) -> None:
    source = f"""(module
      (import "{WASI}" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 64) "{{\\22n\\22:0}}")
      (func $say (param i32)
        (i32.store8 (i32.const 69) (i32.add (i32.const 48) (local.get 0)))
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 7))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))))
      (func (export "_start")
        (drop (call $sizes (i32.const 16) (i32.const 20))) (call $say (i32.load (i32.const 16))))
      (func (export "nine") (call $say (i32.const 9))))"""
    server = await bench.started(
        source,
        tools=[
            {"name": "one"},
            {"name": "three", "args": ["a", "b"]},
            {"name": "nine", "function": "nine"},
        ],
    )
    seen = [(await bench.call(server, name))["structuredContent"]["n"]
            for name in ("one", "three", "nine")]  # fmt: skip
    assert seen == [1, 3, 9]


async def test_endless_loop_ends_when_its_fuel_is_used_up(bench: Bench) -> None:
    server = await bench.started(ENDLESS, fuel=1_000_000)
    assert "used up its fuel of 1000000" in await bench.error(server)


async def test_endless_loop_ends_in_time_and_the_loop_runs_on_beside_it(bench: Bench) -> None:
    server = await bench.started(ENDLESS, fuel=10**13, timeout_s=0.4)
    began = time.monotonic()
    call = asyncio.ensure_future(bench.error(server))
    worst = 0.0
    while not call.done():
        before = time.monotonic()
        await asyncio.sleep(0.001)
        worst = max(worst, time.monotonic() - before)
    assert "ran for 0.4 s and was ended" in call.result()
    assert time.monotonic() - began < 3
    assert worst < 0.3


async def test_endless_loops_of_cancelled_calls_give_their_places_back(
    bench: Bench, gone: Gone
) -> None:
    server = await bench.started(ENDLESS, fuel=10**13, timeout_s=300)
    for _ in range(3):
        calls = [asyncio.ensure_future(bench.call(server)) for _ in range(6)]
        await gone(lambda: len(server._running) < 4)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    await gone(lambda: server._running)
    assert server._free.qsize() == 4


async def test_deadline_of_the_call_ends_the_run(bench: Bench, gone: Gone) -> None:
    server = await bench.started(ENDLESS, fuel=10**13, timeout_s=300)
    with pytest.raises(MeshError) as raised:
        await bench.call(server, timeout_s=0.2)
    assert raised.value.kind is ErrorKind.DEADLINE
    await gone(lambda: server._running)


async def test_server_that_closes_ends_its_runs(bench: Bench, gone: Gone) -> None:
    server = await bench.started(ENDLESS, fuel=10**13, timeout_s=300)
    call = asyncio.ensure_future(bench.error(server))
    await gone(lambda: not server._running)
    await server.close()
    assert "was ended" in await call
    with pytest.raises(MeshError):
        await bench.call(server)


async def test_memory_bomb_gets_no_more_than_its_limit(bench: Bench) -> None:
    server = await bench.started(
        BOMB, memory_bytes=4 * 1024 * 1024, tools=[{"name": "t", "function": "all"}, {"name": "u"}]
    )
    assert "trapped: wasm trap: wasm `unreachable` instruction" in await bench.error(server)
    assert "wrote no JSON" in await bench.error(server, tool="u")


async def test_module_that_begins_with_too_much_memory_is_told_so(bench: Bench) -> None:
    source = '(module (memory (export "memory") 1000) (func (export "_start")))'
    server = await bench.started(source, memory_bytes=1024 * 1024)
    assert "memory" in await bench.error(server)


async def test_recursion_without_end_is_a_trap(bench: Bench) -> None:
    server = await bench.started(DEEP)
    assert "stack" in await bench.error(server)


@pytest.mark.parametrize("text", ["nonsense", "[1]", '"x"', "", '{"a":1} trailing', "\xff"])
async def test_output_that_is_no_json_object_is_a_tool_error(bench: Bench, text: str) -> None:
    server = await bench.started(says(text) if text else BOMB)
    assert "wrote no JSON" in await bench.error(server)


async def test_result_that_breaks_the_promise_is_a_tool_error(bench: Bench) -> None:
    promised = {"type": "object", "properties": {"n": {"type": "integer"}}}
    server = await bench.started(says('{"n":"x"}'), tools=[{"name": "t", "result": promised}])
    assert "not as promised (n: " in await bench.error(server)


async def test_status_is_an_error_with_what_the_module_said(bench: Bench) -> None:
    server = await bench.started(says("no such thing", exit_with=2, fd=2))
    said = await bench.error(server)
    assert "ended with status 2. It said: no such thing" in said
    fine = await bench.started(says('{"ok":true}', exit_with=0))
    assert (await bench.call(fine))["structuredContent"] == {"ok": True}


@pytest.mark.parametrize(
    ("fd", "size", "said"),
    [(1, 60_000, "wrote more than 100000 bytes"), (1, 0, "made more than 20000 system calls"),
     (2, 60_000, "made more than 20000 system calls")],
)  # fmt: skip
async def test_output_without_end_is_bounded(bench: Bench, fd: int, size: int, said: str) -> None:
    source = FLOOD.replace("SIZE", str(size)).replace("FD", str(fd))
    server = await bench.started(source, output_bytes=100_000)
    assert said in await bench.error(server)


@pytest.mark.parametrize("at", [0xFFFFFFF0, 0x7FFFFFFF, 65_530])
async def test_address_outside_of_the_memory_reaches_nothing(bench: Bench, at: int) -> None:
    source = f"""(module
      (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "{WASI}" "random_get" (func $random (param i32 i32) (result i32)))
      (import "{WASI}" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const {at})) (i32.store (i32.const 4) (i32.const 100))
        (call $exit (i32.add
          (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))
          (call $random (i32.const {at}) (i32.const 100))))))"""
    server = await bench.started(source)
    assert "status 42" in await bench.error(server)  # twice EFAULT


async def test_files_sockets_and_sleep_are_not_supported(bench: Bench) -> None:
    source = f"""(module
      (import "{WASI}" "path_open" (func $open
        (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (import "{WASI}" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
      (import "{WASI}" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start") (call $exit (i32.add (i32.add
        (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)
          (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0))
        (call $poll (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)))
        (call $prestat (i32.const 3) (i32.const 0))))))"""
    server = await bench.started(source)
    assert "status 112" in await bench.error(server)  # 52 + 52 + 8


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("(module", "no module that can be run"),
        (b"\0asm\x01\0\0\0garbage", "no module that can be run"),
        (b"\xff\xfe", "no module that can be run"),
        ('(module (import "env" "system" (func (param i32))))', "it imports env.system"),
        ("(module)", "exports no function _start"),
        ('(module (func (export "_start") (param i32)))', "exports no function _start"),
        ('(module (memory (export "_start") 1))', "exports no function _start"),
        ('(module (memory (export "memory") 1 2 shared) (func (export "_start")))', "no module"),
    ],
)
async def test_module_that_cannot_be_run_is_refused_at_the_start(
    bench: Bench, source: str | bytes, said: str
) -> None:
    with pytest.raises(MeshError) as raised:
        await bench.started(source)
    assert said in raised.value.message
    assert raised.value.outcome is Outcome.NOT_EXECUTED


async def test_module_that_is_not_there_is_named(bench: Bench) -> None:
    with pytest.raises(MeshError, match=r"settings\.module: /no/such\.wasm: No such file"):
        await bench.started("", module="/no/such.wasm")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tools": []}, "one to 128 tools"),
        ({"tools": [{"name": "t"}, {"name": "t"}]}, "tools[1].name"),
        ({"tools": [{"name": "t", "parameters": {"type": "string"}}]}, "tools[0].parameters"),
        ({"fuel": 1}, "$.fuel"),
        ({"memory_bytes": 1}, "$.memory_bytes"),
        ({"network": True}, "unknown field `network`"),
        ({"module": ""}, "$.module"),
    ],
)
def test_definition_that_is_wrong_is_refused_with_its_path(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    assert said in (server_problem(Bench(tmp_path).definition(ECHO, **settings)) or "")
