"""Takes tasks from a topic, gives each to the agent of its domain, and publishes the result.

An event has no caller: the dispatcher acts in its own name, with a client of its own (in
production with the key in MESH_KEY).
"""

from typing import Any

import msgspec

from mesh_sdk import Agent, Client, MeshCallError, audit_log

agent = Agent("dispatcher", description="Gives tasks to the agents of their domain.")
agent.use(audit_log())


class Task(msgspec.Struct):
    """The event ``tasks:high_priority``."""

    id: int
    domain: str
    text: str


@agent.subscribe("tasks:high_priority")
async def dispatch(task: Task) -> None:
    """Every task ends with one event ``tasks:completed``, whatever became of it."""
    async with Client() as client:
        done = await outcome(client, task)
    await agent.publish("tasks:completed", {"id": task.id, **done})


async def outcome(client: Client, task: Task) -> dict[str, Any]:
    """What the agent of the domain made of it."""
    try:
        result = await client.call_tool(task.domain, "work", {"text": task.text})
    except MeshCallError as error:
        return {"status": "failed", "reason": error.message}
    if result.is_error:
        return {"status": "refused", "reason": result.text}
    return {"status": "done", "result": result.structured}


@agent.tool(read_only=True)
async def domains() -> dict[str, list[str]]:
    """Domains for which there is an agent."""
    async with Client() as client:
        tools = await client.list_tools()
    names = [tool.name for tool in tools if tool.name.endswith("__work")]
    return {"domains": sorted(name.removesuffix("__work") for name in names)}


agent.run()
