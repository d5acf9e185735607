"""Both forms of durable tasks when what serves them is killed: the client only goes elsewhere."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from nats.aio.client import Client
from tests.chaos.acting import Counted, answered_within, call, holder, serving
from tests.e2e.legacy_http import Session
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import post_modern

from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.types.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION, TASKS_EXTENSION

pytestmark = pytest.mark.slow

DECLARED = {
    PROTOCOL_VERSION: "2026-07-28",
    CLIENT_CAPABILITIES: {"extensions": {TASKS_EXTENSION: {}}},
}
ENDED = {"completed", "failed", "cancelled"}
NOTICED_S = 2.0
"""A runner that dies in mid-call is noticed by whoever called it."""
OWNER_NOTICED_S = 15.0
"""A dead owner: two probes 4 s apart, a look every 5 s; at once when it has started again."""


class Extension:
    """A client of 2026-07-28."""

    def __init__(self, clients: list[httpx.AsyncClient]) -> None:
        self._bases = [str(client.base_url) for client in clients]

    async def open(self) -> None:
        """Nothing is opened in this era."""

    async def submit(self, at: int, tool: str, **arguments: object) -> str:
        params = {"name": tool, "arguments": arguments, "_meta": {**DECLARED, "mesh/task": True}}
        made = await self._ask(at, "tools/call", params)
        assert made["result"]["resultType"] == "task", made
        return made["result"]["taskId"]

    async def state(self, at: int, task_id: str) -> Any:
        """Status, and the error of a task that failed."""
        told = await self._ask(at, "tasks/get", {"taskId": task_id, "_meta": DECLARED})
        return told["result"]

    async def outcome(self, at: int, task_id: str) -> Any:
        """Result or error, once it has ended."""
        while True:
            task = await self.state(at, task_id)
            if task["status"] in ENDED:
                return {key: task[key] for key in ("result", "error") if key in task}
            await asyncio.sleep(0.1)

    async def _ask(self, at: int, method: str, params: Any) -> Any:
        return (await post_modern(self._bases[at].rstrip("/"), method, params)).json


class Core:
    """A client of 2025-11-25."""

    def __init__(self, clients: list[httpx.AsyncClient]) -> None:
        self._clients = clients
        self._session: Session | None = None
        self._ids = itertools.count(1)

    async def open(self) -> None:
        """Open the session, at the first gateway."""
        self._session = await Session.open(self._clients[0])

    async def submit(self, at: int, tool: str, **arguments: object) -> str:
        params = {"name": tool, "arguments": arguments, "task": {"ttl": 60_000}}
        return (await self._ask(at, "tools/call", params))["result"]["task"]["taskId"]

    async def state(self, at: int, task_id: str) -> Any:
        """Status of a task."""
        return (await self._ask(at, "tasks/get", {"taskId": task_id}))["result"]

    async def outcome(self, at: int, task_id: str) -> Any:
        """Result or error; the request itself waits for it."""
        return await self._ask(at, "tasks/result", {"taskId": task_id})

    async def _ask(self, at: int, method: str, params: Any) -> Any:
        assert self._session is not None
        session = self._session.at(self._clients[at])
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        sent = await session.client.post("/mcp", json=body, headers=session.headers)
        if sent.headers["content-type"] == "application/json":
            return sent.json()
        return msgspec.json.decode(sent.text.rpartition("data: ")[2])


Form = Extension | Core
FORMS: dict[str, Callable[[list[httpx.AsyncClient]], Form]] = {"extension": Extension, "core": Core}


@pytest_asyncio.fixture
async def clients(mesh_pair: RunningMesh) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A connection to each gateway."""
    made = [httpx.AsyncClient(base_url=url, timeout=40) for url in mesh_pair.urls]
    yield made
    for client in made:
        await client.aclose()


@pytest_asyncio.fixture(params=sorted(FORMS))
async def form(request: pytest.FixtureRequest, clients: list[httpx.AsyncClient]) -> Form:
    """A client of either form."""
    made = FORMS[request.param](clients)
    await made.open()
    return made


async def owner_of(operator: Client, task_id: str) -> str:
    """The runner that executes a task."""
    body = b'{"seq":1,"next_by_subj":"$KV.mesh_tasks.*.*.%b"}' % task_id.encode()
    found = await operator.request("$JS.API.DIRECT.GET.KV_mesh_tasks", body, timeout=2)
    return msgspec.json.decode(found.data, type=TaskRecord).owner


async def ends_with_the_client(waiting: Awaitable[Any]) -> bool:
    """Whether a request fails because the other side is gone."""
    try:
        await waiting
    except (httpx.HTTPError, OSError, EOFError):
        return True
    return False


@pytest.mark.parametrize("seconds", [2, pytest.param(20, marks=pytest.mark.slow)])
async def test_task_gives_its_result_at_another_gateway_when_its_own_is_killed(
    mesh_pair: RunningMesh, operator: Client, form: Form, seconds: float
) -> None:
    counted = Counted(mesh_pair)
    began = time.monotonic()
    task_id = await form.submit(0, "lab__count", label="t", seconds=seconds)
    await counted.reach(1)
    waiting = asyncio.create_task(ends_with_the_client(form.outcome(0, task_id)))
    await asyncio.sleep(0)
    assert (await form.state(0, task_id))["status"] == "working"
    old = mesh_pair.kill("gateway-1")
    # Whoever waited there knows at once, and asks at the other one.
    async with asyncio.timeout(1.0):
        assert await waiting
    assert (await form.state(1, task_id))["status"] == "working"
    async with asyncio.timeout(seconds + 5):
        outcome = await form.outcome(1, task_id)
    assert outcome["result"]["content"][0]["text"] == "counted"
    assert seconds <= time.monotonic() - began < seconds + 4
    assert counted.begun == 1, "the call ran once"
    await asyncio.to_thread(mesh_pair.await_restart, "gateway-1", old)
    await serving(mesh_pair, operator, "gateway-1", 10)
    # The new life of the dead one knows it as well.
    assert (await form.outcome(0, task_id))["result"] == outcome["result"]


async def test_task_fails_soon_when_the_runner_of_its_server_is_killed(
    mesh_pair: RunningMesh, operator: Client, form: Form
) -> None:
    counted = Counted(mesh_pair)
    victim, _ = holder(mesh_pair)
    for number in range(1, 30):
        task_id = await form.submit(0, "lab__count", label=f"h{number}", seconds=60)
        await counted.reach(number)
        if await owner_of(operator, task_id) != victim:
            break
    else:
        raise AssertionError("every task is owned by the runner of its server")
    old = mesh_pair.kill(victim)
    killed = time.monotonic()
    async with asyncio.timeout(NOTICED_S + 3):
        outcome = await form.outcome(1, task_id)
    assert time.monotonic() - killed < NOTICED_S
    assert outcome["error"]["code"] == -31010
    assert outcome["error"]["data"]["outcome"] == "unknown"
    assert (await form.state(0, task_id))["status"] == "failed"
    await asyncio.to_thread(mesh_pair.await_restart, victim, old)
    await serving(mesh_pair, operator, victim, 10)
    await answered_within(10, lambda: call(mesh_pair.http, "lab__pid"))


async def test_task_fails_within_the_time_told_when_the_runner_that_owns_it_is_killed(
    mesh_pair: RunningMesh, operator: Client, form: Form
) -> None:
    counted = Counted(mesh_pair)
    task_id = await form.submit(0, "lab__count", label="o", seconds=60)
    await counted.reach(1)
    victim = await owner_of(operator, task_id)
    waiting = asyncio.create_task(form.outcome(1, task_id))
    old = mesh_pair.kill(victim)
    async with asyncio.timeout(OWNER_NOTICED_S):
        outcome = await waiting
    assert outcome["error"]["data"]["outcome"] == "unknown"
    assert (await form.state(0, task_id))["status"] == "failed"
    assert counted.begun == 1, "nobody ran it again"
    await asyncio.to_thread(mesh_pair.await_restart, victim, old)
    await serving(mesh_pair, operator, victim, 10)
    await answered_within(10, lambda: call(mesh_pair.http, "lab__pid"))
