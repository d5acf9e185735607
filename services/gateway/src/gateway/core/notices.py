"""Notifications that belong to one request, as its caller may hear them.

Progress passes. Log messages are for a caller that asked for them, at its own level, whatever
level a server that it shares with others is set to; ``logger`` says which server speaks.
"""

import functools
from collections.abc import Callable

import msgspec

from mcp_proto.codec import encode_notification
from mcp_proto.members import splice
from mcp_proto.types.logging import is_wanted

__all__ = ["scoped"]

_MESSAGE = "notifications/message"
_LOGGER_CHARS_MAX = 128


class _Notice(msgspec.Struct):
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Log(msgspec.Struct):
    level: str = ""
    logger: str | None = None


_NOTICE = msgspec.json.Decoder(_Notice)
_LOG = msgspec.json.Decoder(_Log)


def scoped(
    on_notice: Callable[[bytes], None] | None, level: str, server: str
) -> Callable[[bytes], None] | None:
    """What takes the notifications of a request from ``server``.

    Args:
        on_notice: the caller; None = it can be told nothing.
        level: the lowest severity it asked for; "" = none at all.
        server: who speaks.
    """
    # Not a closure: most calls are answered without any, and it is made for each of them.
    return None if on_notice is None else functools.partial(_deliver, on_notice, level, server)


def _deliver(on_notice: Callable[[bytes], None], level: str, server: str, notice: bytes) -> None:
    # Nearly all are progress; an escape could spell the method in another way.
    if b"notifications/message" not in notice and b"\\" not in notice:
        on_notice(notice)
        return
    try:
        read = _NOTICE.decode(notice)
        if read.method != _MESSAGE:
            on_notice(notice)
            return
        log = _LOG.decode(read.params)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if is_wanted(log.level, level):
        name = f"{server}/{log.logger[:_LOGGER_CHARS_MAX]}" if log.logger else server
        params = splice(read.params, {"logger": msgspec.json.encode(name)})
        on_notice(encode_notification(_MESSAGE, params))
