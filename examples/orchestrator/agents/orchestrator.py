"""Gets a task in words, finds the tool for it by search, and calls it in the caller's name.

It knows no other agent: what the mesh gains or loses is found, or not, at the next task.
"""

from typing import Any

from mesh_sdk import Agent, Context, ToolError

agent = Agent("orchestrator", description="Finds the right agent for a task and delegates to it.")
STEPS = 3


@agent.tool
async def delegate(task: str, details: dict[str, Any], ctx: Context) -> dict:
    """Have a task done by whichever agent fits it best.

    Args:
        task: What is to be done, in a few words.
        details: What is known about it, by name: city, amount, text …
    """
    await ctx.progress(1, STEPS, f"searching for: {task}")
    found = await ctx.call_tool("mesh", "tools_search", {"query": task, "limit": 5})
    hits = [hit for hit in found["tools"] if hit["server"] != agent.name]
    if not hits:
        raise ToolError(f"no agent fits {task!r}: say it in other words")

    names = [hit["name"] for hit in hits]
    await ctx.progress(2, STEPS, f"reading the descriptions of {', '.join(names)}")
    described = await ctx.call_tool("mesh", "tools_describe", {"names": names})
    tool, arguments = choose(described["tools"], details)

    server, _, bare = tool["name"].partition("__")
    await ctx.progress(3, STEPS, f"calling {server}:{bare}")
    answer = await ctx.call_tool(server, bare, arguments)
    return {"agent": server, "tool": bare, "answer": answer}


def choose(
    tools: list[dict[str, Any]], details: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best match whose required arguments are known. A model would choose here."""
    for tool in tools:
        schema = tool["inputSchema"]
        if set(schema.get("required", [])) <= set(details):
            wanted = schema["properties"]
            return tool, {name: value for name, value in details.items() if name in wanted}
    names = [tool["name"] for tool in tools]
    raise ToolError(f"none of {', '.join(names)} can do with {', '.join(details) or 'no details'}")


agent.run()
