"""A program on the Python SDK v1 (1.30.0), as people have it; runs in an environment of its own.

Arguments: URL of the mesh or, for stdio, the command and its words; name of server-everything
there comes first. Prints what it saw as one JSON object; judging is for the test.
"""

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError

NAME, *TARGET = sys.argv[1:]
URI = "demo://resource/static/document/features.md"
out: dict[str, Any] = {"asked": [], "progress": []}
updated = asyncio.Event()


def text(result: types.CallToolResult) -> str:
    return "\n".join(getattr(part, "text", part.type) for part in result.content)


async def elicit(_: Any, params: Any) -> types.ElicitResult:
    out["asked"].append(["elicitation", params.message])
    return types.ElicitResult(action="accept", content={"name": "Ada", "check": True})


async def sample(_: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    out["asked"].append(["sampling", params.messages[0].content.text])
    content = types.TextContent(type="text", text="polly")
    return types.CreateMessageResult(role="assistant", content=content, model="parrot")


async def roots(_: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///py1", name="py1")])


async def progress(at: float, total: float | None, _: str | None) -> None:
    out["progress"].append([at, total])


async def hear(message: Any) -> None:
    if isinstance(message, types.ServerNotification) and isinstance(
        message.root, types.ResourceUpdatedNotification
    ):
        out["updated"] = str(message.root.params.uri)
        updated.set()


async def use(session: ClientSession) -> None:
    began = await session.initialize()
    out["revision"] = began.protocolVersion
    out["server"] = began.serverInfo.name
    out["tools"] = [tool.name for tool in (await session.list_tools()).tools]
    out["sum"] = text(await session.call_tool(f"{NAME}__get-sum", {"a": 20, "b": 22}))
    out["wrong"] = (await session.call_tool(f"{NAME}__get-sum", {"a": "x"})).isError
    steps = {"duration": 0.3, "steps": 3}
    long = f"{NAME}__trigger-long-running-operation"
    out["long"] = text(await session.call_tool(long, steps, progress_callback=progress))
    out["elicited"] = text(await session.call_tool(f"{NAME}__trigger-elicitation-request", {}))
    prompt = {"prompt": "speak", "maxTokens": 7}
    out["sampled"] = text(await session.call_tool(f"{NAME}__trigger-sampling-request", prompt))
    try:
        await session.call_tool("nobody__nothing", {})
    except McpError as error:
        out["unknown"] = error.error.code
    out["read"] = (await session.read_resource("demo://resource/dynamic/text/7")).contents[0].text
    await session.subscribe_resource(URI)
    toggle = f"{NAME}__toggle-subscriber-updates"
    while not text(await session.call_tool(toggle, {})).startswith("Started"):
        pass
    await asyncio.wait_for(updated.wait(), 12)
    await session.call_tool(toggle, {})
    await session.unsubscribe_resource(URI)
    out["prompts"] = [prompt.name for prompt in (await session.list_prompts()).prompts]
    got = await session.get_prompt(f"{NAME}__args-prompt", {"city": "Oslo"})
    out["prompt"] = got.messages[0].content.text
    reference = types.PromptReference(type="ref/prompt", name=f"{NAME}__completable-prompt")
    argument = {"name": "department", "value": "S"}
    out["completed"] = (await session.complete(reference, argument)).completion.values
    await session.send_ping()


async def main() -> None:
    if TARGET[0].startswith("http"):
        streams: Any = streamablehttp_client(TARGET[0])
    else:
        streams = stdio_client(StdioServerParameters(command=TARGET[0], args=TARGET[1:]))
    async with (
        streams as (reading, writing, *more),
        ClientSession(
            reading,
            writing,
            timedelta(seconds=15),
            elicitation_callback=elicit,
            sampling_callback=sample,
            list_roots_callback=roots,
            message_handler=hear,
        ) as session,
    ):
        await use(session)
        out["session"] = more[0]() if more else None


asyncio.run(asyncio.wait_for(main(), 40))
print(json.dumps(out))
