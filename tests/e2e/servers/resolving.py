"""A server of the new era on the official SDK: its tools ask by ``input_required``."""

from typing import Annotated

from mcp.server.mcpserver import (
    Context,
    Elicit,
    ElicitationResult,
    ListRoots,
    MCPServer,
    Resolve,
    Sample,
)
from mcp.types import CreateMessageResult, ListRootsResult, SamplingMessage, TextContent
from pydantic import BaseModel

mcp = MCPServer("resolving")


class Choice(BaseModel):
    """Form of the elicitation."""

    colour: str


async def ask_colour() -> Elicit[Choice]:
    """One question to the user."""
    return Elicit("Which colour?", Choice)


async def ask_model(
    colour: Annotated[ElicitationResult[Choice], Resolve(ask_colour)],
) -> Sample:
    """A second round, built on the first."""
    text = f"praise {colour.action}"
    return Sample(
        [SamplingMessage(role="user", content=TextContent(type="text", text=text))], max_tokens=9
    )


async def ask_roots() -> ListRoots:
    """One question to the client itself."""
    return ListRoots()


@mcp.tool()
async def choose(colour: Annotated[ElicitationResult[Choice], Resolve(ask_colour)]) -> str:
    """Which colour the user chose."""
    return f"{colour.action}: {colour.data.colour if colour.action == 'accept' else None}"


@mcp.tool()
async def praise(praised: Annotated[CreateMessageResult, Resolve(ask_model)]) -> str:
    """What the model says about it."""
    assert isinstance(praised.content, TextContent)
    return praised.content.text


@mcp.tool()
async def era(ctx: Context) -> str:
    """In which revision it is spoken to."""
    return str(ctx.protocol_version)


@mcp.tool()
async def roots(found: Annotated[ListRootsResult, Resolve(ask_roots)]) -> str:
    """Where the client lets servers work."""
    return ",".join(str(root.uri) for root in found.roots)


if __name__ == "__main__":
    mcp.run()
