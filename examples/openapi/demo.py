"""Serves the library, deploys it to the mesh as a server, and calls its operations as tools."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import uvicorn
from api import app

from mesh_sdk import Client, Manager


@contextlib.asynccontextmanager
async def library() -> AsyncGenerator[str, None]:
    """The HTTP service on a free port; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def main() -> None:
    """Deploy, call, and let it refuse."""
    manager = Manager()
    async with library() as url, Client() as client:
        await manager.initialize()
        try:
            await manager.deploy_server(
                {
                    "name": "library",
                    "type": "openapi",
                    "url": url,
                    "settings": {"document": f"{url}/openapi.json"},
                }
            )
            print("tools:", ", ".join(tool.name for tool in await client.list_tools("library")))

            new = {"title": "A Brief History of Time", "shelf": "science"}
            added = await client.call_tool("library", "addBook", {"body": new})
            print("added:", added.structured)
            found = await client.call_tool("library", "listBooks", {"shelf": "science"})
            print("science:", found.text)
            one = await client.call_tool("library__getBook", {"id": 1})
            print("book 1:", one.structured)

            missing = await client.call_tool("library", "getBook", {"id": 99})
            print("book 99:", missing.text)
            wrong = await client.call_tool("library", "getBook", {"id": "../admin"})
            print("book ../admin:", wrong.text)
        finally:
            await manager.shutdown()
    assert not added.is_error
    assert added.structured["id"] == 3
    assert one.structured["title"] == "Moby-Dick"
    assert "A Brief History of Time" in found.text
    assert missing.is_error
    assert wrong.is_error
    print("ok: three operations called as tools, two requests refused")


asyncio.run(main())
