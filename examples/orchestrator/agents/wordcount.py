"""Counts words."""

from mesh_sdk import Agent

agent = Agent("wordcount", description="Measures texts.")


@agent.tool(read_only=True)
async def count(text: str) -> dict:
    """Count the words and characters of a text.

    Args:
        text: Any text.
    """
    return {"words": len(text.split()), "characters": len(text)}


agent.run()
