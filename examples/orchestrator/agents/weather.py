"""Knows the weather of two cities."""

from mesh_sdk import Agent, ToolError

agent = Agent("weather", description="Weather of the next days.")
KNOWN = {"Rome": "sunny, 27 °C", "Riga": "rain, 14 °C"}


@agent.tool(read_only=True)
async def forecast(city: str) -> dict:
    """Weather forecast for a city: sun, rain, temperature of tomorrow.

    Args:
        city: Name of the city, in English.
    """
    if city not in KNOWN:
        raise ToolError(f"no station in {city}; there are: {', '.join(KNOWN)}")
    return {"city": city, "tomorrow": KNOWN[city]}


agent.run()
