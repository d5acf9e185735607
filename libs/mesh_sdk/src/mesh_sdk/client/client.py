"""``Client``: everything a mesh offers, over NATS, HTTP or TCP by URL, speaking MCP 2026-07-28."""

from mesh_sdk.client.context import ContextMethods
from mesh_sdk.client.tools import ToolMethods

__all__ = ["Client"]


class Client(ToolMethods, ContextMethods):
    """A client of a mesh, or of any MCP server of revision 2026-07-28 over HTTP.

    ``async with Client() as client: await client.call_tool("echo", {"text": "hi"})``

    Args:
        url: ``nats://…``, ``http(s)://host:port[/mcp]`` or ``tcp://host:9500``; None = the
            environment (``MESH_URL``, ``NATS_URL``), else the ``mesh up`` that runs from this
            folder, else the selected context of the ``nats`` tool.
        key: API key or token; None = ``MESH_KEY``, or that of the local mesh.
        tenant: over NATS, where neither key nor folder says it.
        timeout_s: budget of a request that names none.
        on_elicit: answers servers that ask the user; on_sample: that ask a model; roots: where
            servers may work. What is not given is not declared, so servers do not ask it.
        settings: None = from the environment (``ClientSettings.from_env``).
        transport: instead of ``url``.

    Raises:
        MeshCallError: ``params``: no address of a kind known here.
        ValueError: a variable of the environment is out of range.
    """
