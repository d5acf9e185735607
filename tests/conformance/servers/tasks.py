"""The tasks fixture: a modern server whose slow tools become tasks of the official extension.

Written on the SDK's low-level server, which knows nothing of tasks: they are the extension
``io.modelcontextprotocol/tasks`` (SEP-2663), kept in memory here.
"""

import argparse
import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pydantic
from mcp.server import Server
from mcp.server.caching import CacheHint
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from tests.conformance.servers import behaviour, everything
from tests.conformance.servers.content import Json, text

EXTENSION = "io.modelcontextprotocol/tasks"
TTL_MS = 300_000
POLL_MS = 100
_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
_NEEDED = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


class TaskParams(pydantic.BaseModel):
    """Params of ``tasks/get``, ``tasks/update`` and ``tasks/cancel``."""

    model_config = pydantic.ConfigDict(extra="allow")
    taskId: str  # noqa: N815 - a name of the wire
    inputResponses: dict[str, Any] | None = None  # noqa: N815 - a name of the wire


class Task:
    """One task. ``inputs`` are the questions that wait, each with the future of its answer."""

    def __init__(self) -> None:
        self.id = secrets.token_urlsafe(18)
        self.status = "working"
        self.created = self.updated = _now()
        self.result: Json | None = None
        self.error: Json | None = None
        self.inputs: dict[str, tuple[Json, asyncio.Future[Json]]] = {}
        self.running: asyncio.Task[None] | None = None

    def set(self, status: str) -> None:
        """Change the status, unless it is final."""
        if self.status in {"working", "input_required"}:
            self.status = status
            self.updated = _now()

    def shown(self) -> Json:
        """The task as every result carries it."""
        return {
            "taskId": self.id,
            "status": self.status,
            "createdAt": self.created,
            "lastUpdatedAt": self.updated,
            "ttlMs": TTL_MS,
            "pollIntervalMs": POLL_MS,
        }

    async def ask(self, key: str, request: Json) -> Json:
        """Wait for the client's answer."""
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self.inputs[key] = (request, future)
        self.set("input_required")
        try:
            return await future
        finally:
            self.inputs.pop(key, None)
            if not self.inputs:
                self.set("working")

    def answer(self, key: str, response: Json) -> None:
        """Give an answer; an unknown key is ignored."""
        waiting = self.inputs.pop(key, None)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(response)
        if not self.inputs:
            self.set("working")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _confirm(message: str, field: str) -> Json:
    schema = {"type": "object", "properties": {field: {"type": "boolean"}}, "required": [field]}
    return {
        "method": "elicitation/create",
        "params": {"message": message, "requestedSchema": schema},
    }


Work = Callable[[Task, Json], Awaitable[Json]]


async def _slow(task: Task, arguments: Json) -> Json:
    await asyncio.sleep(float(arguments.get("seconds", 0)))
    return text(f"computed {arguments.get('label', '')}".strip())


async def _failing(task: Task, arguments: Json) -> Json:
    await asyncio.sleep(0.3)
    return text("The job failed, as it always does.", isError=True)


async def _broken(task: Task, arguments: Json) -> Json:
    await asyncio.sleep(0.05)
    raise MCPError(-32603, "the job broke")


async def _delete(task: Task, arguments: Json) -> Json:
    answer = await task.ask("confirm", _confirm(f"Delete {arguments.get('filename')}?", "confirm"))
    agreed = bool((answer.get("content") or {}).get("confirm"))
    return text("deleted" if agreed else "kept")


async def _two_inputs(task: Task, arguments: Json) -> Json:
    answers = await asyncio.gather(
        task.ask("first", _confirm("First?", "confirm")),
        task.ask("second", _confirm("Second?", "confirm")),
    )
    return text(f"{len(answers)} answers")


_WORK: dict[str, Work] = {
    "slow_compute": _slow,
    "failing_job": _failing,
    "protocol_error_job": _broken,
    "confirm_delete": _delete,
    "multi_input": _two_inputs,
}


def _tool(name: str, description: str, /, **properties: Json) -> Json:
    schema: Json = {"type": "object", "properties": properties}
    return {"name": name, "description": description, "inputSchema": schema}


_TOOLS = [
    _tool("greet", "Greets; never a task.", name={"type": "string"}),
    _tool(
        "slow_compute",
        "Computes for some seconds.",
        seconds={"type": "number"},
        label={"type": "string"},
    ),
    _tool("failing_job", "Fails; always a task."),
    _tool("protocol_error_job", "Ends with a protocol error."),
    _tool("confirm_delete", "Asks before it deletes.", filename={"type": "string"}),
    _tool("multi_input", "Asks two things at once."),
    _tool("test_tool_with_task", "Asks first, then becomes a task."),
]


class TaskFixture:
    """The server and its tasks."""

    def __init__(self, name: str) -> None:
        self._tasks: dict[str, Task] = {}
        hint = CacheHint(ttl_ms=60_000, scope="public")
        self.server: Server[Any] = Server(
            name,
            version="1.0",
            cache_hints={"tools/list": hint, "server/discover": hint},
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_subscriptions_listen=ListenHandler(InMemorySubscriptionBus()),
        )
        self.server.extensions = {EXTENSION: {}}
        for method, handler in (
            ("tasks/get", self._get),
            ("tasks/update", self._update),
            ("tasks/cancel", self._cancel),
        ):
            self.server.add_request_handler(method, TaskParams, handler)

    async def _list(self, ctx: Any, params: Any) -> Any:
        return {"resultType": "complete", "tools": _TOOLS}

    async def _call(self, ctx: Any, params: Any) -> Any:
        raw: Json = dict(ctx.params or {})
        arguments: Json = dict(raw.get("arguments") or {})
        name = params.name
        if name == "greet":
            said = text(f"Hello, {arguments.get('name', 'nobody')}!")
            return {"resultType": "complete", **said}
        if name == "test_tool_with_task":
            return self._ask_then_work(ctx, raw)
        work = _WORK.get(name)
        if work is None:
            raise MCPError(-32602, f"unknown tool: {name}")
        if not _declared(ctx):
            if name != "slow_compute":
                raise MCPError(-32021, "this tool needs the tasks extension", _NEEDED)
            return {"resultType": "complete", **await work(Task(), arguments)}
        return self._start(work, arguments)

    def _ask_then_work(self, ctx: Any, raw: Json) -> Json:
        _need(ctx)
        question = {
            "method": "elicitation/create",
            "params": {
                "message": "What is your name?",
                "requestedSchema": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}},
                    "required": ["name"],
                },
            },
        }
        try:
            answers = behaviour.Retry("test_tool_with_task", raw).take(
                {"user_name": question}, stateful=True
            )
        except behaviour.InputRequiredError as wanted:
            return wanted.result
        except behaviour.WrongStateError as wrong:
            raise MCPError(-32602, str(wrong)) from None
        name = (answers["user_name"].get("content") or {}).get("name", "nobody")

        async def greet(task: Task, arguments: Json) -> Json:
            await asyncio.sleep(0.1)
            return text(f"Hello, {name}!")

        return self._start(greet, {})

    def _start(self, work: Work, arguments: Json) -> Json:
        task = Task()
        self._tasks[task.id] = task
        task.running = asyncio.create_task(self._work(task, work, arguments))
        return {"resultType": "task", **task.shown()}

    @staticmethod
    async def _work(task: Task, work: Work, arguments: Json) -> None:
        try:
            result = await work(task, arguments)
        except MCPError as error:
            task.error = {"code": error.error.code, "message": error.error.message}
            task.set("failed")
        except asyncio.CancelledError:
            task.inputs.clear()
            task.set("cancelled")
        else:
            task.result = result
            task.set("completed")

    def _find(self, ctx: Any, params: TaskParams) -> Task:
        _need(ctx)
        _check_header(ctx, params.taskId)
        task = self._tasks.get(params.taskId)
        if task is None:
            raise MCPError(-32602, "unknown task")
        return task

    async def _get(self, ctx: Any, params: TaskParams) -> Any:
        task = self._find(ctx, params)
        shown = {"resultType": "complete", **task.shown()}
        if task.status == "completed":
            shown["result"] = task.result
        elif task.status == "failed":
            shown["error"] = task.error
        elif task.status == "input_required":
            shown["inputRequests"] = {key: asked for key, (asked, _) in task.inputs.items()}
        return shown

    async def _update(self, ctx: Any, params: TaskParams) -> Any:
        task = self._find(ctx, params)
        for key, response in (params.inputResponses or {}).items():
            if isinstance(response, dict):
                task.answer(key, response)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: Any, params: TaskParams) -> Any:
        task = self._find(ctx, params)
        if task.running is not None:
            task.running.cancel()
            await asyncio.wait([task.running], timeout=1)
        return {"resultType": "complete"}


def _declared(ctx: Any) -> bool:
    meta = (ctx.params or {}).get("_meta") or {}
    extensions = (meta.get(_CAPABILITIES) or {}).get("extensions") or {}
    return EXTENSION in extensions


def _need(ctx: Any) -> None:
    if not _declared(ctx):
        raise MCPError(-32021, "this needs the tasks extension", _NEEDED)


def _check_header(ctx: Any, task_id: str) -> None:
    """The SDK compares ``Mcp-Name`` for its own methods only."""
    headers = getattr(ctx.request, "headers", None)
    if headers is not None and headers.get("mcp-name") != task_id:
        raise MCPError(-32020, "Mcp-Name does not match params.taskId")


def main() -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", type=int, default=-1, metavar="PORT")
    parser.add_argument("--name", default="tasks-fixture")
    options = parser.parse_args()
    fixture = TaskFixture(options.name)
    if options.http >= 0:
        everything.over_http(fixture.server, "modern", options.http)
    else:
        asyncio.run(everything.over_stdio(fixture.server, "modern"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
