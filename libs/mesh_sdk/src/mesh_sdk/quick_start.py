"""The shortest way in: an agent, or a client, with defaults that fit a local mesh.

from mesh_sdk import quick_start_server

server = quick_start_server("greeter")

@server.tool
def greet(name: str) -> str:
return f"Hello {name}"

server.run()
"""

from collections.abc import Callable
from typing import Any

from mesh_sdk.agent import Agent, audit_log
from mesh_sdk.client import Client

__all__ = ["quick_start_client", "quick_start_server"]


def quick_start_server(name: str = "my-agent", *tools: Callable[..., Any], url: str = "") -> Agent:
    """An agent that writes each call to its audit log.

    Args:
        name: server name; its tools are listed as ``name__tool``.
        tools: functions to serve; more with ``@server.tool``.
        url: broker; "" = found as ``mesh_sdk.connect`` says.

    Returns:
        The agent: ``server.run()`` serves until the process is told to stop.
    """
    agent = Agent(name, url=url)
    agent.use(audit_log())
    for function in tools:
        agent.tool(function)
    return agent


def quick_start_client(url: str | None = None, *, key: str | None = None) -> Client:
    """A client of the mesh at ``url``, or of the one that is found; use it with ``async with``."""
    return Client(url, key=key)
