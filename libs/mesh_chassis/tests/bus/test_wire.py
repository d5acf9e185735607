"""The adapter over nats-py: its parser, and that the internals it stands on are still there."""

import asyncio
import importlib.metadata
import inspect

import pytest
from nats import errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol import parser

from mesh_chassis.bus.wire import WireClient

Message = tuple[bytes, bytes, bytes, bytes]


def test_nats_py_is_the_version_the_adapter_was_read_against() -> None:
    assert importlib.metadata.version("nats-py").startswith("2.16.")


@pytest.mark.parametrize(
    "name",
    [
        "_attempt_reconnect",
        "close",
        "_close",
        "_flush_pending",
        "_process_connect_init",
        "_process_err",
        "_process_msg",
        "_process_pong",
        "_read_loop",
        "_send_command",
        "_send_ping",
        "_send_unsubscribe",
        "force_reconnect",
    ],
)
def test_nats_py_still_has_the_coroutine_the_adapter_overrides_or_calls(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(Client, name))


def test_nats_py_still_keeps_its_state_where_the_adapter_looks() -> None:
    client = Client()
    for name in (
        "_pending",
        "_pending_data_size",
        "_subs",
        "_sid",
        "_pongs",
        "_ps",
        "_transport",
        "_reconnection_task",
    ):
        assert hasattr(client, name), name
    assert isinstance(client._pending, list)
    assert inspect.signature(Client._process_msg).parameters.keys() == {
        "self", "sid", "subject", "reply", "data", "headers",
    }  # fmt: skip
    assert hasattr(TcpTransport(), "_io_writer")
    assert {"reset", "parse"} <= set(dir(parser.Parser))
    assert "_id" in Subscription.__init__.__code__.co_names


@pytest.fixture
async def heard() -> tuple[WireClient, list[Message]]:
    client = WireClient()
    messages: list[Message] = []
    client.routes[b"1"] = lambda *message: messages.append(message)
    return client, messages


STREAM = (
    b"MSG a.b 1 5\r\nhello\r\n"
    b"MSG a.b 1 in.box 2\r\nhi\r\n"
    b"HMSG a.b 1 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"
    b"HMSG a.b 1 in.box 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"MSG a.b 9 3\r\nxyz\r\n"
    b"MSG a.b 1 0\r\n\r\n"
)
EXPECTED = [
    (b"a.b", b"", b"hello", b""),
    (b"a.b", b"in.box", b"hi", b""),
    (b"a.b", b"", b"hello", b"NATS/1.0\r\n\r\n"),
    (b"a.b", b"in.box", b"", b"NATS/1.0\r\n\r\n"),
    (b"a.b", b"", b"", b""),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 16, 50, 1000])
async def test_parser_gives_the_same_messages_however_the_stream_is_cut(
    heard: tuple[WireClient, list[Message]], step: int
) -> None:
    client, messages = heard
    for at in range(0, len(STREAM), step):
        await client._ps.parse(STREAM[at : at + step])
    assert messages == EXPECTED


async def test_parser_takes_a_large_body_in_many_reads(
    heard: tuple[WireClient, list[Message]],
) -> None:
    client, messages = heard
    body = bytes(range(256)) * 4096
    stream = b"MSG a 1 %d\r\n%b\r\nMSG a 1 1\r\nx\r\n" % (len(body), body)
    for at in range(0, len(stream), 65536):
        await client._ps.parse(stream[at : at + 65536])
    assert [message[2] for message in messages] == [body, b"x"]


@pytest.mark.parametrize(
    "line", [b"MSG a 1\r\n", b"MSG a 1 x\r\n", b"MSG 5\r\n", b"WHAT\r\n", b"x" * 5000]
)
async def test_parser_refuses_a_line_that_is_no_protocol(
    heard: tuple[WireClient, list[Message]], line: bytes
) -> None:
    with pytest.raises(errors.ProtocolError):
        await heard[0]._ps.parse(line + b"MSG a 1 1\r\nx\r\n")


async def test_parser_survives_a_route_that_raises(
    heard: tuple[WireClient, list[Message]],
) -> None:
    client, messages = heard

    def broken(*_: bytes) -> None:
        raise ValueError("boom")

    client.routes[b"2"] = broken
    await client._ps.parse(b"MSG a 2 1\r\nx\r\nMSG a 1 1\r\ny\r\n")
    assert [message[2] for message in messages] == [b"y"]


async def test_pong_for_a_cancelled_ping_does_not_end_the_read_loop(
    heard: tuple[WireClient, list[Message]],
) -> None:
    client, messages = heard
    abandoned: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    abandoned.cancel()
    client._pongs.append(abandoned)
    await client._ps.parse(b"PONG\r\nMSG a 1 1\r\ny\r\n")
    assert len(messages) == 1
    assert not client._pongs


async def test_publish_through_the_stock_interface_is_refused_unless_connected() -> None:
    client = WireClient()
    with pytest.raises(errors.ConnectionReconnectingError):
        await client.publish("a", b"x")


async def test_messages_queued_without_a_connection_are_never_written() -> None:
    client = WireClient()
    number = client.send("a", "", b"x", b"")
    client.write_out()
    assert client.written < number
    assert not client._pending
