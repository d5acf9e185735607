"""``Client`` without asyncio: the same methods, each waits for its answer.

Safe to use from several threads. Plain functions given as callbacks and handlers run in threads
of their own and may block.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from mesh_sdk.blocking.loop_thread import LoopThread, aside
from mesh_sdk.client import client as waiting
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.listening import Listening
from mesh_sdk.client.requests import Arguments
from mesh_sdk.client.results import (
    Completion,
    Event,
    ListChanged,
    PromptInfo,
    PromptResult,
    ResourceContents,
    ResourceInfo,
    ResourceUpdated,
    ToolInfo,
    ToolResult,
)
from mesh_sdk.client.streaming import ToolStream
from mesh_sdk.client.tasks import Task as WaitingTask
from mesh_sdk.client.tasks import TaskStatus
from mesh_sdk.client.tools import Call

__all__ = ["Client", "Stream", "Subscription", "Task"]

E = TypeVar("E", ResourceUpdated, ListChanged)


class Client:
    """A client that waits. Arguments and errors: see ``mesh_sdk.Client``.

    ``with Client() as client: client.call_tool("echo", {"text": "hi"})``
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        on_elicit: Callable[..., Any] | None = None,
        on_sample: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        self._thread = LoopThread("mesh-client")
        self._given: dict[str, Any] = {
            "url": url,
            "on_elicit": aside(on_elicit),
            "on_sample": aside(on_sample),
            **options,
        }
        self._client: waiting.Client | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Connect; ``with`` does it."""

        async def made() -> waiting.Client:
            client = waiting.Client(**self._given)
            await client.open()
            return client

        if self._client is not None:
            return
        try:
            self._client = self._thread.run(made())
        except BaseException:
            self._thread.stop()
            raise

    def close(self) -> None:
        """Disconnect and end the thread."""
        client, self._client = self._client, None
        try:
            if client is not None and not self._thread.forked:
                self._thread.run(client.close())
        finally:
            self._thread.stop()

    # Tools

    def list_tools(self, agent: str = "") -> tuple[ToolInfo, ...]:
        """See ``mesh_sdk.Client.list_tools``."""
        return self._thread.run(self._open().list_tools(agent))

    def call_tool(
        self,
        name: str,
        tool: str | Arguments | None = None,
        args: Arguments | None = None,
        *,
        progress: Callable[..., Any] | None = None,
        log: Callable[..., Any] | None = None,
        **options: Any,
    ) -> ToolResult:
        """See ``mesh_sdk.Client.call_tool``; ctrl-C cancels the call in the mesh."""
        work = self._open().call_tool(
            name, tool, args, progress=aside(progress), log=aside(log), **options
        )
        return self._thread.run(work)

    def stream_tool(
        self,
        name: str,
        tool: str | Arguments | None = None,
        args: Arguments | None = None,
        **options: Any,
    ) -> "Stream":
        """See ``mesh_sdk.Client.stream_tool``: a plain iterator."""
        client = self._open()

        async def made() -> ToolStream:
            return client.stream_tool(name, tool, args, **options)

        return Stream(self._thread, self._thread.run(made()))

    def batch(
        self, calls: Iterable[Call | tuple[str, Mapping[str, Any]]]
    ) -> list[ToolResult | MeshCallError]:
        """See ``mesh_sdk.Client.batch``."""
        return self._thread.run(self._open().batch(calls))

    def call_tool_as_task(
        self,
        name: str,
        tool: str | Arguments | None = None,
        args: Arguments | None = None,
        **options: Any,
    ) -> "Task":
        """See ``mesh_sdk.Client.call_tool_as_task``."""
        work = self._open().call_tool_as_task(name, tool, args, **options)
        return Task(self._thread, self._thread.run(work))

    def task(self, task_id: str) -> "Task":
        """See ``mesh_sdk.Client.task``."""
        return Task(self._thread, self._open().task(task_id))

    # Resources, prompts, completion

    def list_resources(self, agent: str = "") -> tuple[ResourceInfo, ...]:
        """See ``mesh_sdk.Client.list_resources``."""
        return self._thread.run(self._open().list_resources(agent))

    def list_resource_templates(self, agent: str = "") -> tuple[ResourceInfo, ...]:
        """See ``mesh_sdk.Client.list_resource_templates``."""
        return self._thread.run(self._open().list_resource_templates(agent))

    def read_resource(self, uri: str, **options: Any) -> tuple[ResourceContents, ...]:
        """See ``mesh_sdk.Client.read_resource``."""
        return self._thread.run(self._open().read_resource(uri, **options))

    def get_resource(self, agent: str, name: str, **options: Any) -> tuple[ResourceContents, ...]:
        """See ``mesh_sdk.Client.get_resource``."""
        return self._thread.run(self._open().get_resource(agent, name, **options))

    def subscribe(self, *uris: str, agent: str = "") -> "Subscription[ResourceUpdated]":
        """See ``mesh_sdk.Client.subscribe``: a plain iterator, taken by the mesh on return."""
        client = self._open()

        async def made() -> Listening[ResourceUpdated]:
            return await client.subscribe(*uris, agent=agent).ready()

        return Subscription(self._thread, self._thread.run(made()))

    def list_changes(self, *lists: str) -> "Subscription[ListChanged]":
        """See ``mesh_sdk.Client.list_changes``: a plain iterator, taken by the mesh on return."""
        client = self._open()

        async def made() -> Listening[ListChanged]:
            return await client.list_changes(*lists).ready()

        return Subscription(self._thread, self._thread.run(made()))

    def list_prompts(self, agent: str = "") -> tuple[PromptInfo, ...]:
        """See ``mesh_sdk.Client.list_prompts``."""
        return self._thread.run(self._open().list_prompts(agent))

    def get_prompt(
        self, name: str, args: Mapping[str, str] | None = None, **options: Any
    ) -> PromptResult:
        """See ``mesh_sdk.Client.get_prompt``."""
        return self._thread.run(self._open().get_prompt(name, args, **options))

    def complete(self, argument: str, value: str, **options: Any) -> Completion:
        """See ``mesh_sdk.Client.complete``."""
        return self._thread.run(self._open().complete(argument, value, **options))

    def _open(self) -> waiting.Client:
        if self._client is None:
            raise RuntimeError("the client is not open; use it with 'with'")
        return self._client


class Task:
    """See ``mesh_sdk.client.Task``."""

    def __init__(self, thread: LoopThread, task: WaitingTask) -> None:
        self._thread = thread
        self._task = task
        self.id = task.id

    def status(self) -> TaskStatus:
        """Where it is now."""
        return self._thread.run(self._task.status())

    def wait(self, timeout_s: float | None = None) -> TaskStatus:
        """Wait until it has ended."""
        return self._thread.run(self._task.wait(timeout_s))

    def result(self, timeout_s: float | None = None) -> ToolResult:
        """Wait for the result of the call."""
        return self._thread.run(self._task.result(timeout_s))

    def cancel(self) -> None:
        """Ask for its end."""
        self._thread.run(self._task.cancel())


class Stream:
    """An iterator over the events of a call; the last item is its ``ToolResult``."""

    def __init__(self, thread: LoopThread, stream: ToolStream) -> None:
        self._thread = thread
        self._stream = stream

    def result(self) -> ToolResult:
        """Wait for the result."""
        return self._thread.run(self._stream.result())

    def close(self) -> None:
        """End it; a call that still runs is cancelled."""
        self._thread.run(self._stream.aclose())

    def __iter__(self) -> Iterator[Event | ToolResult]:
        return self

    def __next__(self) -> Event | ToolResult:
        try:
            return self._thread.run(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Subscription(Generic[E]):
    """An iterator of changes; close it, or use it with ``with``.

    Attributes:
        refused: URIs that no server watches.
    """

    def __init__(self, thread: LoopThread, listening: Listening[E]) -> None:
        self._thread = thread
        self._listening = listening
        self.refused = listening.refused

    def close(self) -> None:
        """Hear no more."""
        self._thread.run(self._listening.aclose())

    def __iter__(self) -> Iterator[E]:
        return self

    def __next__(self) -> E:
        try:
            return self._thread.run(self._listening.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
