"""Decides whether a request may be done. Others ask it before every request."""

from mesh_sdk import Agent, Context, rate_limit

agent = Agent("verifier", description="Allows or denies requests by the rules of the team.")
agent.use(rate_limit(500))

FORBIDDEN = ("delete", "drop", "truncate")


@agent.tool(read_only=True)
async def verify(target: str, text: str, ctx: Context) -> dict:
    """Say whether a request may be done.

    Args:
        target: Who would do it, as agent:tool.
        text: What is asked for.
    """
    if not target.startswith("inventory:"):
        return {"allowed": False, "reason": f"{target} is none of ours"}
    bad = [word for word in FORBIDDEN if word in text.lower().split()]
    if bad:
        return {"allowed": False, "reason": f"nobody may {bad[0]} anything"}
    return {"allowed": True, "reason": f"fine for {ctx.principal or 'anyone'}"}


agent.run()
