"""The floor: the same transports without the mesh.

``python -m tests.benchmarks.floor echo URL SEED`` answers a subject with nats-py alone;
``… http URL SEED PORT`` is a bare ASGI application under uvicorn that asks that subject once per
request. Both are as fast as the libraries let them be (uvloop, httptools, no validation).
"""

import asyncio
import sys
from typing import Any

import nats
import uvicorn
import uvloop
from nats.aio.msg import Msg

SUBJECT = "floor.echo"
INBOX = "_FLOOR"


async def connect(url: str, seed: str) -> Any:
    """A plain nats-py connection with what any client would set."""
    return await nats.connect(url, nkeys_seed=seed, inbox_prefix=INBOX.encode())


async def echo(url: str, seed: str) -> None:
    """Answer every request with its own body."""
    connection = await connect(url, seed)

    async def answer(message: Msg) -> None:
        await connection.publish(message.reply, message.data)

    await connection.subscribe(SUBJECT, cb=answer, pending_msgs_limit=100_000)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def serve_http(url: str, seed: str, port: int) -> None:
    """POST anything, get the echo of it: one NATS request per HTTP request."""
    connection = await connect(url, seed)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        reply = await connection.request(SUBJECT, body, timeout=5)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(reply.data)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply.data})

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host="127.0.0.1",
            port=port,
            http="httptools",
            lifespan="off",
            access_log=False,
            log_level="warning",
        )
    )
    await server.serve()


def main() -> None:
    """Entry point of both programs."""
    what, url, seed, *rest = sys.argv[1:]
    if what == "echo":
        uvloop.run(echo(url, seed))
    else:
        uvloop.run(serve_http(url, seed, int(rest[0])))


if __name__ == "__main__":
    main()
