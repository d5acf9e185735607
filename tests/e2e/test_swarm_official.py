"""Swarm tools by the official Python client: as MCP tasks of both eras, and as plain calls.

The SDK leaves tasks to extensions: ``Tasks`` is one for 2026-07-28, written with nothing but its
extension interface. In its legacy mode it sends the requests of 2025-11-25 about a task as they
are; that mode knows no answer but a result to the call itself (the ``task`` parameter is tried in
``test_swarm_tasks`` and below).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal

import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.context import ClientRequestContext
from mcp.client.extension import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from tests.e2e import processes
from tests.e2e.running_mesh import MESH, RunningMesh
from tests.e2e.wire import lines

from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow
Json = dict[str, Any]
MODES = ("legacy", "2026-07-28")


def counting(rows: int = 8, **more: object) -> Json:
    step = {"name": "count", "agents": ["clerk"], "input": {"do": "count", "rows": rows}}
    return {"task": {"description": "count", "phases": [step], **more}}


ASKING = {
    "task": {
        "description": "paint",
        "phases": [{"name": "paint", "agents": ["clerk"], "input": {"do": "paint"}}],
    }
}


def sleeping(seconds: str) -> Json:
    step = {"name": "nap", "agents": ["sleeps"], "input": {"s": seconds}}
    return {"task": {"description": "sleep", "timeout": 600, "phases": [step]}}


# The client -----------------------------------------------------------------------------------


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


class TaskResult(types.Result):
    """A task in place of a result (2026-07-28)."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")
    result_type: Literal["task"] = "task"
    task_id: str


class Status(_Wire):
    """``tasks/get``; also the params of ``notifications/tasks``."""

    task_id: str
    status: str
    status_message: str | None = None
    poll_interval_ms: int = 500
    result: Json | None = None
    error: Json | None = None
    input_requests: Json = {}


class Core(types.Result):
    """An answer of 2025-11-25 as it is."""

    model_config = ConfigDict(extra="allow")


class About(types.Request[Any, Any]):
    """Any request that names a task."""

    name_param: ClassVar[str | None] = "taskId"


class Plain(types.Request[Any, Any]):
    """Any other request."""


class Tasks(ClientExtension):
    """Drives tasks to their end; what a task asks goes to the client's own callbacks."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self) -> None:
        self.seen: list[Status] = []
        self.made = asyncio.Event()
        self.id = ""

    def claims(self) -> tuple[ResultClaim[TaskResult], ...]:
        return (ResultClaim(result_type="task", model=TaskResult, resolve=self._resolve),)

    def notifications(self) -> tuple[NotificationBinding[Status], ...]:
        return (
            NotificationBinding(
                method="notifications/tasks", params_type=Status, handler=self._told
            ),
        )

    async def _told(self, status: Status) -> None:
        self.seen.append(status)

    async def _resolve(self, made: TaskResult, context: ClaimContext) -> types.CallToolResult:
        self.id = made.task_id
        self.made.set()
        session = context.session
        answered: set[str] = set()
        while True:
            now = await session.send_request(
                About(method="tasks/get", params={"taskId": made.task_id}), Status
            )
            self.seen.append(now)
            if now.status == "completed":
                return types.CallToolResult.model_validate(now.result)
            if now.status in {"failed", "cancelled"}:
                said = types.TextContent(type="text", text=f"{now.status}: {now.error}")
                return types.CallToolResult(content=[said], is_error=True)
            for key, asked in now.input_requests.items():
                if key in answered:
                    continue
                answered.add(key)
                request = types.ElicitRequest.model_validate(asked)
                ask = ClientRequestContext(session=session, request_id=key, meta=None)
                answer = await session.dispatch_input_request(ask, request)
                body = answer.model_dump(by_alias=True, mode="json", exclude_none=True)
                params = {"taskId": made.task_id, "inputResponses": {key: body}}
                await session.send_request(About(method="tasks/update", params=params), Core)
            await asyncio.sleep(0.1)


class Clerk:
    """A client of one mode, and what it was asked and told."""

    def __init__(self, mesh: RunningMesh, mode: str, edge: str = "http") -> None:
        self.mode = mode
        self.tasks = Tasks()
        self.asked: list[str] = []
        self.notices: list[Any] = []
        server: Any = mesh.mcp
        if edge == "stdio":
            server = StdioServerParameters(command=MESH, args=["stdio", "--state", str(mesh.state)])
        self.client = Client(
            server,
            mode=mode,
            read_timeout_seconds=40,
            elicitation_callback=self._elicit,
            message_handler=self._heard,
            extensions=[self.tasks] if mode != "legacy" else None,
        )

    async def _elicit(self, _: Any, params: Any) -> types.ElicitResult:
        self.asked.append(params.message)
        return types.ElicitResult(action="accept", content={"colour": "blue"})

    async def _heard(self, message: Any) -> None:
        self.notices.append(message)

    async def call(self, tool: str, **arguments: object) -> Json:
        told = await self.client.call_tool(tool, arguments)
        assert not told.is_error, told
        assert told.structured_content is not None
        return told.structured_content

    async def send(self, method: str, progress: Any = None, **params: object) -> Json:
        """A request of 2025-11-25 that the SDK does not know."""
        kind = About if "taskId" in params else Plain
        answer = await self.client.session.send_request(
            kind(method=method, params=params), Core, progress_callback=progress
        )
        return answer.model_dump(by_alias=True, mode="json")

    async def orchestrate(self, heard: list[Any], **arguments: object) -> Json:
        """``task_orchestrate`` as an MCP task of the client's era; the result of the call."""
        if self.mode != "legacy":
            told = await self.client.call_tool(
                "task_orchestrate", arguments, meta={"mesh/task": True}
            )
            heard += [
                (one.model_extra or {}).get("_meta", {}).get("mesh/progress", {}).get("progress")
                for one in self.tasks.seen
            ]
            return told.model_dump(by_alias=True, mode="json")

        async def note(progress: float, total: float | None, message: str | None) -> None:
            heard.append(progress)

        # The SDK takes nothing but a result for a call: the id of a plain one is a task, too.
        self.tasks.id = (await self.call("task_orchestrate", **arguments))["taskId"]
        self.tasks.made.set()
        return await self.send("tasks/result", progress=note, taskId=self.tasks.id)

    async def cancel(self) -> None:
        await self.send("tasks/cancel", taskId=self.tasks.id)

    async def status(self) -> Json:
        return await self.send("tasks/get", taskId=self.tasks.id)


@asynccontextmanager
async def clerk(
    mesh: RunningMesh, mode: str, *types_: str, edge: str = "http"
) -> AsyncIterator[tuple[Clerk, str]]:
    """A client with a swarm whose agents run."""
    one = Clerk(mesh, mode, edge)
    async with one.client:
        await one.client.list_tools()
        agents = [{"type": kind, "name": kind} for kind in types_]
        made = await one.call("swarm_init", topology="mesh", initialAgents=agents)
        name = made["swarmId"]
        try:

            async def running() -> bool:
                return (await one.call("swarm_status", swarmId=name))["activeAgents"] == len(agents)

            await eventually(running, timeout_s=30)
            yield one, name
        finally:
            await one.call("swarm_destroy", swarmId=name)


# Tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", ["http", "stdio"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_waits_hears_how_far_its_agent_is(
    office: RunningMesh, mode: str, edge: str
) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with clerk(office, mode, "clerk", edge=edge) as (one, name):
        arguments = {"swarmId": name, "wait": True, **counting()}
        told = await one.client.call_tool("task_orchestrate", arguments, progress_callback=note)
        assert told.structured_content is not None
        assert told.structured_content["result"]["rows"] == 8
    figures = [progress for progress, _, _ in heard]
    assert figures == sorted(set(figures))
    assert figures[-1] == 1
    assert len([one for one in figures if 0 < one < 1]) >= 2
    assert {total for _, total, _ in heard} == {1}
    assert any("row " in str(message) for _, _, message in heard)


@pytest.mark.parametrize("mode", MODES)
async def test_a_task_is_driven_to_its_end_with_progress(office: RunningMesh, mode: str) -> None:
    heard: list[float | None] = []
    async with clerk(office, mode, "clerk") as (one, name):
        # Longer than the pace at which records of tasks follow what agents tell.
        told = await one.orchestrate(heard, swarmId=name, **counting(20))
        assert told["structuredContent"]["taskId"] == one.tasks.id
        assert told["structuredContent"]["result"]["rows"] == 20
        same = await one.call("task_result", taskId=one.tasks.id)
        assert same["result"] == told["structuredContent"]["result"]
    figures = [figure for figure in heard if figure]
    assert len({figure for figure in figures if 0 < figure < 1}) >= 2, heard
    assert figures == sorted(figures)
    if mode != "legacy":
        messages = {str(one.status_message) for one in one.tasks.seen}
        assert any("row " in message for message in messages), messages


@pytest.mark.parametrize("mode", MODES)
async def test_an_agent_that_asks_gets_its_answer_from_the_clients_callback(
    office: RunningMesh, mode: str
) -> None:
    async with clerk(office, mode, "clerk") as (one, name):
        told = await one.orchestrate([], swarmId=name, **ASKING)
        painted = {"painted": {"colour": "blue"}, "with": "a brush"}
        assert told["structuredContent"]["result"] == painted
        assert one.asked == ["Which colour?"]
        if mode != "legacy":
            assert "input_required" in {seen.status for seen in one.tasks.seen}
        assert (await one.status())["status"] == "completed"


@pytest.mark.parametrize("edge", ["http", "stdio"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_waits_asks_its_client_in_the_middle(
    office: RunningMesh, mode: str, edge: str
) -> None:
    async with clerk(office, mode, "clerk", edge=edge) as (one, name):
        told = await one.call("task_orchestrate", swarmId=name, wait=True, **ASKING)
        assert told["result"] == {"painted": {"colour": "blue"}, "with": "a brush"}
        assert one.asked == ["Which colour?"]
        work = {"description": "paint", "input": {"do": "paint"}}
        told = await one.call("agent_task", swarmId=name, agentId="clerk", task=work, wait=True)
        assert told["result"]["painted"] == {"colour": "blue"}


@pytest.mark.parametrize("mode", MODES)
async def test_a_cancelled_task_ends_the_program_that_works_for_it(
    office: RunningMesh, mode: str
) -> None:
    seconds = f"7301.{MODES.index(mode)}"

    def sleeper() -> set[processes.Process]:
        below = processes.below(int(str(office.record()["pid"])))
        return {one for one in below if one.command == f"sleep {seconds}"}

    async with clerk(office, mode, "sleeps") as (one, name):
        driving = asyncio.ensure_future(one.orchestrate([], swarmId=name, **sleeping(seconds)))
        async with asyncio.timeout(20):
            await one.tasks.made.wait()
        await eventually(sleeper, timeout_s=20, what="a program that sleeps")

        await one.cancel()

        await eventually(lambda: not sleeper(), timeout_s=20, what="the end of the program")

        async def cancelled() -> bool:
            return (await one.status())["status"] == "cancelled"

        await eventually(cancelled, timeout_s=20)
        assert (await one.call("task_status", taskId=one.tasks.id))["status"] == "cancelled"
        agents = (await one.call("agent_list", swarmId=name))["agents"]
        assert [agent["status"] for agent in agents] == ["active"]
        if mode == "legacy":
            with pytest.raises(Exception, match="cancelled"):
                await driving
        else:
            assert (await driving)["isError"] is True


async def test_a_token_holds_as_long_as_the_task_on_the_line_edge(office: RunningMesh) -> None:
    async with clerk(office, "legacy", "clerk") as (_, name), lines(office.tcp) as peer:
        await peer.initialize("2025-11-25")
        params = {
            "name": "task_orchestrate",
            "arguments": {"swarmId": name, **counting(20)},
            "task": {},
            "_meta": {"progressToken": "t-1"},
        }
        made = (await peer.request("tools/call", params))["result"]["task"]
        await peer.request("tasks/result", {"taskId": made["taskId"]})
        told = [one["params"] for one in peer.others if one["method"] == "notifications/progress"]
        assert {one["progressToken"] for one in told} == {"t-1"}
        figures = [one["progress"] for one in told]
        assert figures == sorted(set(figures))
        assert len([one for one in figures if 0 < one < 1]) >= 2
        assert all(
            one["_meta"]["io.modelcontextprotocol/related-task"]["taskId"] == made["taskId"]
            for one in told
        )


async def test_a_caller_on_the_line_edge_hears_progress_in_every_era(office: RunningMesh) -> None:
    async with clerk(office, "legacy", "clerk") as (_, name):
        for version in ("2024-11-05", "2025-11-25"):
            async with lines(office.tcp) as peer:
                await peer.initialize(version)
                params = {
                    "name": "task_orchestrate",
                    "arguments": {"swarmId": name, "wait": True, **counting()},
                    "_meta": {"progressToken": 5},
                }
                answer = await peer.request("tools/call", params)
                assert answer["result"]["structuredContent"]["result"]["rows"] == 8
                told = [
                    one["params"]
                    for one in peer.others
                    if one.get("method") == "notifications/progress"
                ]
                assert {one["progressToken"] for one in told} == {5}, version
                assert told[-1]["progress"] == told[-1]["total"] == 1


async def test_status_log_and_the_live_view_show_what_an_agent_told(office: RunningMesh) -> None:
    async with clerk(office, "2026-07-28", "clerk") as (one, name):
        made = await one.call("task_orchestrate", swarmId=name, **counting(40))
        seen: Json = {}

        async def told() -> bool:
            seen.update(await one.call("task_status", taskId=made["taskId"]))
            return any(step["message"] for step in seen["steps"])

        await eventually(told, timeout_s=20)
        (step,) = seen["steps"]
        assert step["total"] == 40
        assert step["message"].startswith("row ")
        assert "row " in seen["message"]
        view = await asyncio.to_thread(office.mesh, "swarm", "top", name)
        assert "row " in view.stdout
        await one.call("task_cancel", taskId=made["taskId"])
