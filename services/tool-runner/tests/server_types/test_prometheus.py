"""The ``prometheus`` tools against a real Prometheus, and against what is none."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import jsonschema_rs
import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome


@pytest.fixture
async def prom(deploy: Any, prometheus: str) -> Any:
    return await deploy("prometheus", url=prometheus)


async def test_model_queries_one_moment_and_gets_numbers(prom: Any) -> None:
    found = await prom("query", query='up{job="self"}')
    assert found["kind"] == "vector"
    (one,) = found["series"]
    assert one["labels"]["job"] == "self"
    assert one["value"] == 1.0
    jsonschema_rs.validate(prom.tools["query"]["outputSchema"], found)


async def test_values_that_are_no_numbers_are_words(prom: Any) -> None:
    for query, value in (("1/0", "+Inf"), ("-1/0", "-Inf"), ("0/0", "NaN"), ("7", 7.0)):
        found = await prom("query", query=query)
        assert found["kind"] == "scalar"
        assert found["series"][0]["value"] == value
    assert (await prom("query", query='"text"'))["series"][0]["value"] == "text"


async def test_range_selector_gives_ranges(prom: Any) -> None:
    found = await prom("query", query="up[1m]")
    assert found["kind"] == "matrix"
    assert found["series"] == []
    assert {one["labels"]["job"] for one in found["ranges"]} == {"self", "gone"}
    assert all(len(point) == 2 for point in found["ranges"][0]["points"])


async def test_model_queries_a_range_without_choosing_a_step(prom: Any) -> None:
    found = await prom("query_range", query="up", start="-1h")
    assert found["stepSeconds"] == 15.0
    assert {one["labels"]["job"]: one["points"][-1][1] for one in found["series"]} == {
        "self": 1.0,
        "gone": 0.0,
    }
    jsonschema_rs.validate(prom.tools["query_range"]["outputSchema"], found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"start": "-1d", "step": "1s"}, "use a step of 120 s or more"),
        ({"start": "-1d", "step": 0}, "step must be more than 0"),
        ({"start": "-1d", "step": "often"}, "step: 'often' is no span"),
        ({"start": "tomorrow"}, "start: 'tomorrow' is no time"),
        ({"start": "now", "end": "-1h"}, "end is before start"),
    ],
)
async def test_a_range_that_is_too_fine_is_refused_before_asking(
    prom: Any, arguments: dict[str, Any], said: str
) -> None:
    assert said in await prom.refusal("query_range", query="up", **arguments)


async def test_operator_bounds_range_and_series(deploy: Any, prometheus: str) -> None:
    settings = {"range_max_s": 60, "series_max": 1}
    prom = await deploy("prometheus", url=prometheus, settings=settings)
    said = await prom.refusal("query_range", query="up", start="-2m")
    assert "at most 60 s are allowed" in said
    found = await prom("query", query="up")
    assert len(found["series"]) == 1
    assert found["leftOut"] == 1


async def test_a_wrong_expression_is_a_tool_error_with_the_reason(prom: Any) -> None:
    assert "parse error" in await prom.refusal("query", query="up{")
    said = await prom.refusal("query", query="sum(up) by")
    assert said.startswith("Prometheus refuses (bad_data)")


async def test_arguments_are_checked_against_the_schema(prom: Any) -> None:
    assert "Invalid arguments" in await prom.refusal("query")
    assert "Invalid arguments" in await prom.refusal("label_values", label="../../status/config")


async def test_model_finds_series_and_labels(prom: Any) -> None:
    assert {one["job"] for one in (await prom("series", match=["up"]))["series"]} == {
        "self",
        "gone",
    }
    assert "job" in (await prom("labels"))["values"]
    assert (await prom("labels", match=["targets:up"]))["values"] == ["__name__"]
    assert (await prom("label_values", label="job"))["values"] == ["gone", "self"]
    metrics = (await prom("label_values", label="__name__"))["values"]
    assert {"up", "targets:up"} <= set(metrics)


async def test_model_sees_alerts_rules_and_targets(prom: Any) -> None:
    (alert,) = (await prom("alerts", state="firing"))["alerts"]
    assert (alert["name"], alert["value"]) == ("Gone", 0.0)
    assert alert["annotations"] == {"summary": "gone is gone"}
    assert (await prom("alerts", state="pending"))["alerts"] == []
    rules = {rule["name"]: rule for rule in (await prom("rules"))["rules"]}
    assert rules["Gone"]["state"] == "firing"
    assert [rule["name"] for rule in (await prom("rules", type="record"))["rules"]] == [
        "targets:up"
    ]
    (down,) = (await prom("targets", health="down"))["targets"]
    assert down["job"] == "gone"
    assert "refused" in down["lastError"]
    assert "hidden" not in down["url"]


async def test_every_tool_only_reads(prom: Any) -> None:
    for tool in prom.tools.values():
        assert tool["annotations"]["readOnlyHint"] is True
        assert tool["outputSchema"]["type"] == "object"


async def test_metrics_of_the_runner_stay_behind_the_guard(deploy: Any, prometheus: str) -> None:
    """A tenant's own server may not be on this machine."""
    with pytest.raises(MeshError) as raised:
        await deploy("prometheus", url=prometheus, trusted=False)
    assert "loopback" in raised.value.message


Respond = Callable[[str], tuple[int, str]]


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[[Respond], Any]]:
    """An HTTP server that answers as told: status and body by path."""
    servers: list[asyncio.Server] = []

    async def start(respond: Respond) -> str:
        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = [line for line in head.split("\r\n") if line.startswith("Content-Length")]
                body = await reader.readexactly(int(length[0].split()[1]) if length else 0)
                status, text = respond(head.split()[1] + "?" + body.decode())
                writer.write(
                    f"HTTP/1.1 {status} X\r\nConnection: close\r\n"
                    f"Content-Length: {len(text.encode())}\r\n\r\n{text}".encode()
                )
                await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(one, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/prom"

    yield start
    for server in servers:
        server.close()


def ok(data: object, **more: object) -> tuple[int, str]:
    return 200, json.dumps({"status": "success", "data": data, **more})


VECTOR = {"resultType": "vector", "result": []}


async def test_warnings_are_passed_on_and_paths_keep_their_prefix(
    deploy: Any, scripted: Any
) -> None:
    asked: list[str] = []

    def respond(path: str) -> tuple[int, str]:
        asked.append(path)
        return ok(VECTOR, warnings=["a store is away"], infos=["metric might not be a counter"])

    prom = await deploy("prometheus", url=await scripted(respond))
    found = await prom("query", query="up")
    assert found["warnings"] == ["a store is away", "metric might not be a counter"]
    assert all(path.startswith("/prom/api/v1/query?") for path in asked)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, "<html>hello</html>"), "is no Prometheus"),
        ((404, "not found"), "is no Prometheus"),
        ((401, "go away"), "refuses the credential"),
        ((503, '{"status":"error","errorType":"unavailable","error":"starting"}'), "503: starting"),
    ],
)
async def test_what_is_no_prometheus_does_not_start(
    deploy: Any, scripted: Any, answer: tuple[int, str], said: str
) -> None:
    with pytest.raises(MeshError) as raised:
        await deploy("prometheus", url=await scripted(lambda _: answer))
    assert raised.value.kind is ErrorKind.UPSTREAM
    assert said in raised.value.message


async def test_an_answer_that_is_garbage_is_its_fault(deploy: Any, scripted: Any) -> None:
    answers = [ok(VECTOR), ok({"resultType": "vector", "result": [{"value": "x"}]})]
    prom = await deploy("prometheus", url=await scripted(lambda _: answers.pop(0)))
    with pytest.raises(MeshError) as raised:
        await prom("query", query="up")
    assert raised.value.outcome is Outcome.EXECUTED


async def test_an_answer_without_end_is_refused(deploy: Any, scripted: Any) -> None:
    answers = [ok(VECTOR), (200, '{"status":"success","data":"' + "x" * (9 << 20) + '"}')]
    prom = await deploy("prometheus", url=await scripted(lambda _: answers.pop(0)))
    assert "Ask for less" in await prom.refusal("query", query="up")


async def test_its_life_ends_when_it_is_gone(deploy: Any, scripted: Any) -> None:
    answers = [ok(VECTOR)]
    url = await scripted(lambda _: answers.pop() if answers else (500, "broken"))
    prom = await deploy("prometheus", url=url, check_s=0.05)
    assert "500" in await asyncio.wait_for(prom.server.wait_ended(), 5)
