"""The domain agent: it knows the stock. Every request to it passes the verifier first."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from mesh_sdk import Agent, Context, ToolError, audit_log, auth_required

agent = Agent("inventory", description="Stock of the warehouse.")
STOCK = {"bolts": 120, "nuts": 80}


async def verified(ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> Any:
    """Middleware: ask the verifier in the caller's name; what it denies does not run."""
    if ctx.method != "tools/call":
        return await call_next()  # who may call may look
    request = {"target": f"{ctx.agent}:{ctx.target}", "text": str(ctx.arguments.get("text", ""))}
    verdict = await ctx.call_tool("verifier", "verify", request)
    if not verdict["allowed"]:
        raise ToolError(f"denied by the verifier: {verdict['reason']}")
    return await call_next()


agent.use(auth_required())
agent.use(audit_log())
agent.use(verified)


@agent.tool
async def work(text: str) -> dict:
    """Do a task of the warehouse: "count ITEM" or "take NUMBER ITEM".

    Args:
        text: The task.
    """
    match text.split():
        case ["count", item] if item in STOCK:
            return {"item": item, "stock": STOCK[item]}
        case ["take", number, item] if item in STOCK and re.fullmatch(r"\d{1,6}", number):
            if int(number) > STOCK[item]:
                raise ToolError(f"only {STOCK[item]} {item} left")
            STOCK[item] -= int(number)
            return {"item": item, "stock": STOCK[item]}
        case _:
            raise ToolError(f"cannot do {text!r}: count ITEM or take NUMBER ITEM")


@agent.resource("inventory://stock")
def stock() -> dict[str, int]:
    """Everything on the shelves."""
    return STOCK


agent.run()
