"""What anybody does with server-everything, wherever bridges and the mesh stand in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp import Client
from mcp.types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    Root,
    TextContent,
)

__all__ = ["BOTH", "ROOT", "answer_questions", "client_of", "text_of", "use"]

BOTH = ("legacy", "auto")
"""Modes of the official client: the old era, and the new one where it is offered."""
ROOT = "file:///interop"


async def elicit(context: Any, params: Any) -> ElicitResult:
    if getattr(params, "mode", "form") == "url":
        return ElicitResult(action="accept")
    return ElicitResult(action="accept", content={"name": "Ada", "check": True})


async def sample(context: Any, params: Any) -> CreateMessageResult:
    content = TextContent(type="text", text="polly")
    return CreateMessageResult(role="assistant", content=content, model="parrot")


@asynccontextmanager
async def client_of(
    target: Any, mode: str, *, root: str = ROOT, **options: Any
) -> AsyncIterator[Client]:
    """The official Python client, which answers whatever it is asked."""

    async def roots(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=root, name="interop")])  # type: ignore[arg-type]

    async with Client(
        target,
        mode=mode,  # type: ignore[arg-type]
        read_timeout_seconds=20,
        elicitation_callback=elicit,
        sampling_callback=sample,
        list_roots_callback=roots,
        **options,
    ) as client:
        yield client


def text_of(result: Any) -> str:
    return "\n".join(getattr(part, "text", part.type) for part in result.content)


async def use(client: Client, name: str) -> list[float]:
    """List, call, read, prompt; returns the progress heard."""
    heard: list[float] = []

    async def progress(at: float, total: float | None, message: str | None) -> None:
        heard.append(at)

    names = {tool.name for tool in (await client.list_tools()).tools}
    assert {f"{name}__get-sum", f"{name}__echo", "kv_set"} <= names
    summed = await client.call_tool(f"{name}__get-sum", {"a": 20, "b": 22})
    assert text_of(summed) == "The sum of 20 and 22 is 42."
    shown = await client.call_tool(f"{name}__get-structured-content", {"location": "Chicago"})
    assert shown.structured_content is not None
    assert shown.structured_content["conditions"] == "Light rain / drizzle"
    image = await client.call_tool(f"{name}__get-tiny-image")
    assert [part.type for part in image.content] == ["text", "image", "text"]
    wrong = await client.call_tool(f"{name}__get-sum", {"a": "x"})
    assert wrong.is_error
    assert "expected number" in text_of(wrong)
    steps = {"duration": 0.3, "steps": 3}
    long = f"{name}__trigger-long-running-operation"
    done = await client.call_tool(long, steps, progress_callback=progress)
    assert "Steps: 3" in text_of(done)
    listed = {str(one.uri) for one in (await client.list_resources()).resources}
    assert "demo://resource/static/document/features.md" in listed
    read = (await client.read_resource("demo://resource/dynamic/text/7")).contents[0]
    assert read.text.startswith("Resource 7: This is a plaintext resource")  # type: ignore[union-attr]
    got = await client.get_prompt(f"{name}__args-prompt", {"city": "Oslo"})
    assert got.messages[0].content.text == "What's weather in Oslo?"  # type: ignore[union-attr]
    reference = PromptReference(type="ref/prompt", name=f"{name}__completable-prompt")
    argument = {"name": "department", "value": "S"}
    assert (await client.complete(reference, argument)).completion.values == ["Sales", "Support"]
    return heard


async def answer_questions(client: Client, name: str) -> None:
    """Let the server ask its client for everything it can ask for."""
    elicited = await client.call_tool(f"{name}__trigger-elicitation-request")
    assert "Name: Ada\n- Agreed to terms: true" in text_of(elicited)
    link = {"url": "https://example.com/consent"}
    linked = await client.call_tool(f"{name}__trigger-url-elicitation", link)
    assert "User completed the URL elicitation flow" in text_of(linked)
    sampled = await client.call_tool(f"{name}__trigger-sampling-request", {"prompt": "speak"})
    assert "polly" in text_of(sampled)
