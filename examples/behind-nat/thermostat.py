"""An agent as any other. Where it runs is said by its environment, not in here."""

from mesh_sdk import Agent, Context, ToolError

agent = Agent("thermostat", description="Heating of one home.")
target = {"celsius": 19.0}


@agent.tool(read_only=True)
async def read() -> dict:
    """Temperature that the heating keeps."""
    return dict(target)


@agent.tool
async def set_target(celsius: float, ctx: Context) -> dict:
    """Set the temperature.

    Args:
        celsius: From 5 to 30.
    """
    if not 5 <= celsius <= 30:
        raise ToolError(f"{celsius} °C is out of range: 5 to 30")
    await ctx.progress(1, 2, "asking the boiler")
    target["celsius"] = celsius
    await ctx.call_tool("kv", "kv_set", {"key": "thermostat/target", "value": celsius})
    return dict(target)


agent.run()
