"""The stdio adapter against real children, most of them ill-behaved."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.versions import Revision
from mesh_chassis.testing.conditions import eventually
from tool_runner.upstreams.upstream import Request


async def failure(awaitable) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await awaitable
    return caught.value


async def test_runner_lists_and_calls_a_legacy_server(rig):
    upstream = rig.make(rig.evil())
    offer = await upstream.start()
    assert upstream.handshake.revision is Revision.R2025_11_25
    assert offer.instructions == "Do not trust me."
    assert offer.tools[0].name == "echo"
    assert bytes(offer.tools[0].definition) == (
        b'{"name": "echo", "inputSchema": {"type": "object", "$anchor": "x"}}'
    )
    answer = await upstream.call(rig.request("pid"))
    assert answer.startswith(b'{"resultType":"complete",')
    assert b'"extra": {"b": 2, "a": [1.5]}' in answer


async def test_runner_finds_a_modern_server_and_calls_it(rig, tmp_path):
    script = tmp_path / "modern.py"
    script.write_text(
        textwrap.dedent(
            """
            from fastmcp import Context, FastMCP
            mcp = FastMCP("modern")

            @mcp.tool
            async def count(to: int, ctx: Context) -> int:
                for i in range(to):
                    await ctx.report_progress(i, to)
                return to

            mcp.run(transport="stdio", show_banner=False)
            """
        )
    )
    upstream = rig.make(
        ServerDefinition(name="modern", command=sys.executable, args=(str(script),))
    )
    offer = await upstream.start()
    assert upstream.handshake.modern
    assert [tool.name for tool in offer.tools] == ["count"]
    heard: list[bytes] = []

    async def notify(notification: bytes) -> None:
        heard.append(notification)

    request = rig.request("count", to=3, meta={"progressToken": "mine"}, notify=notify)
    answer = msgspec.json.decode(await upstream.call(request))
    assert answer["structuredContent"] == {"result": 3}
    assert [msgspec.json.decode(one)["params"]["progressToken"] for one in heard] == ["mine"] * 3


async def test_runner_listens_quietly_no_more_when_a_modern_child_ends(rig, tmp_path, caplog):
    script = tmp_path / "listener.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, sys

            for line in sys.stdin:
                asked = json.loads(line)
                if asked["method"] == "subscriptions/listen":
                    sys.exit(4)
                result = {
                    "resultType": "complete",
                    "supportedVersions": ["2026-07-28"],
                    "capabilities": {},
                    "serverInfo": {"name": "l", "version": "1"},
                    "ttlMs": 0,
                    "cacheScope": "private",
                }
                answer = {"jsonrpc": "2.0", "id": asked["id"], "result": result}
                print(json.dumps(answer), flush=True)
            """
        )
    )
    caplog.set_level("INFO")
    upstream = rig.make(ServerDefinition(name="l", command=sys.executable, args=(str(script),)))
    await upstream.start()
    assert upstream.handshake.modern
    assert await upstream.wait_ended() == "exited with status 4"
    await eventually(lambda: "no longer listens" in caplog.text)
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []


@pytest.mark.parametrize("module", ["mcp_server_time", "mcp_server_git"])
async def test_runner_runs_published_servers(rig, module):
    upstream = rig.make(ServerDefinition(name="real", command=sys.executable, args=("-m", module)))
    offer = await upstream.start()
    assert offer.tools


async def test_runner_reads_every_page_of_a_list(rig):
    offer = await rig.make(rig.evil("pages")).start()
    assert [tool.name for tool in offer.tools] == [f"t{n}" for n in range(7)]


async def test_runner_cuts_a_list_whose_cursor_repeats(rig):
    offer = await rig.make(rig.evil("endless")).start()
    assert [tool.name for tool in offer.tools] == ["t0", "t1"]


async def test_runner_leaves_out_tools_that_cannot_be_listed(rig):
    offer = await rig.make(rig.evil("odd")).start()
    assert [tool.name for tool in offer.tools] == ["x", "ü b/c"]


async def test_runner_asks_a_shy_server_again_without_discover(rig):
    first = rig.make(rig.evil("shy"))
    error = await failure(first.start())
    assert "exited with status 3" in error.message
    assert not first.spoke
    offer = await rig.make(rig.evil("shy"), legacy=True).start()
    assert offer.tools


async def test_runner_strips_the_envelope_for_a_legacy_server(rig):
    upstream = await rig.started()
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": "p",
        "traceparent": "00-1-2-01",
        "vendor/x": {"deep": 1},
    }
    seen = json.loads(await rig.call(upstream, "echo", meta=meta, value=1))
    assert seen["_meta"] == {"traceparent": "00-1-2-01", "vendor/x": {"deep": 1}}
    assert seen["arguments"] == {"value": 1}


async def test_runner_refuses_what_is_no_mcp_server(rig):
    upstream = rig.make(ServerDefinition(name="bad", command="echo", args=("hi",)))
    error = await failure(upstream.start())
    assert error.kind is ErrorKind.UPSTREAM
    assert error.outcome is Outcome.NOT_EXECUTED
    assert error.data["upstream"] == "bad"
    assert "exited with status 0 before it spoke MCP" in error.message


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (ServerDefinition(name="bad", command="no-such-program-anywhere"), "No such file"),
        (ServerDefinition(name="bad", command="cat", cwd="/no/such/place"), "working directory"),
        (ServerDefinition(name="bad", command="cat"), "refused initialize"),
        (ServerDefinition(name="bad"), "has no command"),
    ],
)
async def test_runner_names_the_reason_when_a_server_cannot_start(rig, definition, words):
    error = await failure(rig.make(definition).start())
    assert words in error.message
    assert error.outcome is Outcome.NOT_EXECUTED


async def test_runner_refuses_a_server_of_an_unknown_revision(rig):
    assert "2099-01-01" in (await failure(rig.make(rig.evil("future")).start())).message


@pytest.mark.parametrize("mode", ["silent", "deaf"])
async def test_runner_gives_up_on_a_silent_server_in_time(rig, mode):
    error = await failure(rig.make(rig.evil(mode), start_timeout_s=0.5).start())
    assert "did not speak MCP within 0.5 s" in error.message


async def test_runner_kills_a_server_that_prints_garbage_without_end(rig):
    upstream = rig.make(rig.evil("garbage"))
    error = await failure(upstream.start())
    assert "prints what is no MCP" in error.message


async def test_runner_tolerates_a_hundred_lines_of_noise(rig):
    upstream = await rig.started()
    assert await rig.call(upstream, "noise", n=100) == "noisy"
    assert await rig.call(upstream, "noise", n=100) == "noisy"


async def test_call_fails_when_noise_goes_on(rig):
    upstream = await rig.started()
    error = await failure(rig.call(upstream, "noise", n=101))
    assert error.kind is ErrorKind.UPSTREAM
    assert "no MCP" in await upstream.wait_ended()


@pytest.mark.parametrize("n", [0, 1, 500])
async def test_every_call_in_flight_fails_at_once_when_the_child_dies(rig, n):
    upstream = await rig.started()
    waiting = asyncio.ensure_future(rig.call(upstream, "hang"))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    error = await failure(rig.call(upstream, "die", n=n))
    other = await failure(waiting)
    assert loop.time() - began < 0.5
    for one in (error, other):
        assert one.kind is ErrorKind.UPSTREAM
        assert one.outcome is Outcome.UNKNOWN
        assert one.data["upstream"] == "evil"
    assert await upstream.wait_ended() == "was killed by signal 9"
    late = await failure(rig.call(upstream, "pid"))
    assert late.outcome is Outcome.NOT_EXECUTED


async def test_answers_with_wrong_ids_reach_nobody(rig):
    upstream = await rig.started()
    assert await rig.call(upstream, "wrong_id") == "right"
    assert await rig.call(upstream, "twice") == "first"
    assert await rig.call(upstream, "echo") != "second"


async def test_late_answer_reaches_nobody(rig):
    upstream = await rig.started()
    error = await failure(rig.call(upstream, "slow", n=0.3, timeout_s=0.1))
    assert error.kind is ErrorKind.DEADLINE
    assert error.outcome is Outcome.UNKNOWN
    assert await rig.call(upstream, "slow", n=0.4, timeout_s=5.0) == "slow"


async def test_answer_over_the_limit_is_too_large_and_the_next_call_works(rig):
    upstream = await rig.started()
    error = await failure(rig.call(upstream, "huge", n=65))
    assert error.kind is ErrorKind.TOO_LARGE
    assert error.outcome is Outcome.EXECUTED
    assert len(await rig.call(upstream, "huge", n=11)) == 11 * 1024 * 1024


async def test_an_answer_the_rim_refuses_fails_its_call_and_no_other(rig):
    upstream = await rig.started()
    error = await failure(rig.call(upstream, "wide", timeout_s=10.0))
    assert error.kind is ErrorKind.UPSTREAM
    assert error.outcome is Outcome.EXECUTED
    assert "arrays and objects" in error.message
    assert json.loads(await rig.call(upstream, "echo", n=1))["arguments"]["n"] == 1


async def test_two_calls_at_once_get_their_own_answers(rig):
    upstream = await rig.started()
    texts = await asyncio.gather(*(rig.call(upstream, "echo", n=n) for n in range(50)))
    assert [json.loads(text)["arguments"]["n"] for text in texts] == list(range(50))


async def test_cancel_reaches_the_child_out_of_band_with_its_own_id(rig):
    upstream = await rig.started()
    waiting = asyncio.ensure_future(rig.call(upstream, "hang", timeout_s=30.0))
    await rig.call(upstream, "pid")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    cancelled = json.loads(await rig.call(upstream, "cancelled"))
    assert len(cancelled) == 1
    assert isinstance(cancelled[0], int)


async def test_progress_comes_back_under_the_callers_token_in_order(rig):
    upstream = await rig.started()
    heard: list[dict] = []

    async def notify(notification: bytes) -> None:
        heard.append(msgspec.json.decode(notification)["params"])

    meta = json.loads(
        await rig.call(upstream, "progress", n=20, meta={"progressToken": 7}, notify=notify)
    )
    assert meta["progressToken"] != 7
    assert [one["progress"] for one in heard] == list(range(20))
    assert {one["progressToken"] for one in heard} == {7}


async def test_call_goes_on_when_a_notification_cannot_be_delivered(rig):
    upstream = rig.make(rig.evil())
    await upstream.start()
    tried: list[bytes] = []

    async def notify(notification: bytes) -> None:
        tried.append(notification)
        raise MeshError(ErrorKind.TOO_LARGE, "a notification exceeds the inline limit")

    answer = await upstream.call(rig.request("progress", meta={"progressToken": 1}, notify=notify))
    assert tried
    assert answer.startswith(b'{"resultType":"complete",')


async def test_progress_goes_nowhere_when_nobody_asked(rig):
    upstream = await rig.started()
    assert json.loads(await rig.call(upstream, "progress", n=5)) == {}


async def test_log_messages_reach_the_one_caller_that_opted_in(rig):
    upstream = await rig.started()
    heard: list[dict] = []

    async def notify(notification: bytes) -> None:
        heard.append(msgspec.json.decode(notification)["params"])

    level = {"io.modelcontextprotocol/logLevel": "warning"}
    await rig.call(upstream, "log", meta=level, notify=notify)
    assert [one["level"] for one in heard] == ["warning"]
    await rig.call(upstream, "log", notify=notify)
    assert len(heard) == 1


async def test_runner_answers_ping_and_refuses_other_requests_of_a_server(rig):
    upstream = await rig.started()
    await rig.call(upstream, "ask")
    asked = json.loads(await rig.call(upstream, "asked"))
    assert asked["0"] == {}
    assert asked["1"]["code"] == asked["2"]["code"] == -32601


async def test_listener_hears_of_changed_lists(rig):
    upstream = await rig.started()
    before = len((await upstream.read_offer()).tools)
    await rig.call(upstream, "grow")
    async with asyncio.timeout(3):
        await rig.listener.changed.wait()
    assert len((await upstream.read_offer()).tools) == before + 1


async def test_errors_of_a_server_keep_what_they_say_and_gain_an_outcome(rig):
    upstream = await rig.started()
    answer = await upstream.call(rig.request("fail", code=-32602))
    assert isinstance(answer, ErrorObject)
    assert answer.code == -32602
    assert answer.data == {"why": "evil", "upstream": "evil", "outcome": "unknown"}
    foreign = await upstream.call(rig.request("fail", code=-32050))
    assert foreign.code == -31017
    assert foreign.data["upstreamCode"] == -32050


async def test_missing_resource_is_invalid_params_on_the_bus(rig):
    upstream = await rig.started()
    params = msgspec.Raw(b'{"uri":"file:///x"}')
    answer = await upstream.call(Request(method="resources/read", params=params, timeout_s=5))
    assert answer.code == -32602


async def test_result_that_is_no_object_is_an_upstream_failure(rig):
    upstream = await rig.started()
    error = await failure(upstream.call(rig.request("plain")))
    assert error.kind is ErrorKind.UPSTREAM
    assert error.outcome is Outcome.EXECUTED


async def test_child_that_stops_reading_blocks_nobody_for_ever(rig):
    upstream = await rig.started()
    assert await rig.call(upstream, "deaf") == "deaf now"
    for _ in range(3):
        error = await failure(rig.call(upstream, "echo", blob="x" * 600_000, timeout_s=0.2))
        assert error.kind in {ErrorKind.DEADLINE, ErrorKind.UPSTREAM}
    assert error.outcome is Outcome.NOT_EXECUTED
    assert "does not read its input" in error.message


async def test_frozen_child_is_replaced_after_the_time_of_a_call_and_a_ping(rig, monkeypatch):
    monkeypatch.setattr("tool_runner.upstreams.session_upstream.PING_S", 0.2)
    upstream = await rig.started(timeout_s=0.3)
    error = await failure(rig.call(upstream, "freeze", timeout_s=0.3))
    assert error.kind is ErrorKind.DEADLINE
    async with asyncio.timeout(3):
        assert await upstream.wait_ended() == "answers neither calls nor pings"


async def test_slow_but_living_child_is_not_replaced(rig, monkeypatch):
    monkeypatch.setattr("tool_runner.upstreams.session_upstream.PING_S", 0.2)
    upstream = await rig.started(timeout_s=0.3)
    await failure(rig.call(upstream, "hang", timeout_s=0.3))
    assert await rig.call(upstream, "pid") == str(upstream.pid)


async def test_flooded_log_is_kept_small_and_harms_no_call(rig):
    upstream = await rig.started()
    assert await rig.call(upstream, "stderr", n=20, timeout_s=20.0) == "flooded"
    assert await rig.call(upstream, "pid")
    kept = upstream.log_tail(10**6)
    assert 0 < sum(map(len, kept)) <= 256 * 1024


async def test_close_leaves_no_descendant(rig, gone, find_marked, is_alive):
    upstream = await rig.started()
    pid = int(await rig.call(upstream, "fork"))
    marker = f"MESH_CHILD={upstream._child.marker}"
    await gone(lambda: len(find_marked(marker)) < 5)
    await upstream.close()
    assert not is_alive(pid)
    assert find_marked(marker) == []


async def test_dead_child_leaves_no_descendant(rig, gone, find_marked):
    upstream = await rig.started()
    pid = int(await rig.call(upstream, "fork"))
    marker = f"MESH_CHILD={upstream._child.marker}"
    await gone(lambda: len(find_marked(marker)) < 5)
    os.kill(pid, signal.SIGKILL)
    assert await upstream.wait_ended() == "was killed by signal 9"
    assert find_marked(marker) == []


async def test_close_ends_a_child_that_ignores_the_polite_signals(rig, is_alive, monkeypatch):
    monkeypatch.setattr("tool_runner.upstreams.stdio.EXIT_AFTER_EOF_S", 0.2)
    monkeypatch.setattr("tool_runner.upstreams.stdio.TERM_GRACE_S", 0.2)
    upstream = await rig.started("stubborn")
    pid = upstream.pid
    await upstream.close()
    assert not is_alive(pid)


async def test_child_sees_only_the_listed_environment(rig, monkeypatch):
    monkeypatch.setenv("MESH_SECRET_OF_THE_RUNNER", "x")
    upstream = await rig.started(env={"DECLARED": "yes"})
    environ = Path(f"/proc/{upstream.pid}/environ").read_bytes()  # noqa: ASYNC240 - procfs
    names = {entry.partition(b"=")[0].decode() for entry in environ.split(b"\0") if entry}
    assert "DECLARED" in names
    assert "PATH" in names
    assert "MESH_SECRET_OF_THE_RUNNER" not in names
