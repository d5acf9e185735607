"""Converts money with fixed rates."""

from typing import Literal

from mesh_sdk import Agent

agent = Agent("currency", description="Converts amounts of money.")
PER_EURO = {"EUR": 1.0, "USD": 1.1, "CHF": 0.95}


@agent.tool(read_only=True)
async def convert(
    amount: float, currency: Literal["EUR", "USD", "CHF"], into: Literal["EUR", "USD", "CHF"]
) -> dict:
    """Convert an amount of money from one currency into another.

    Args:
        amount: How much.
        currency: What it is in.
        into: What it shall be in.
    """
    return {"amount": round(amount / PER_EURO[currency] * PER_EURO[into], 2), "currency": into}


agent.run()
