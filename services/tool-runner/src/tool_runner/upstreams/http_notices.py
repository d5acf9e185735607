"""Notifications of a server that belong to no call."""

import logging

from mcp_proto.jsonrpc import Notification
from tool_runner.upstreams.upstream import Listener

__all__ = ["take_notice"]

_log = logging.getLogger(__name__)


def take_notice(note: Notification, listener: Listener, server: str) -> None:
    """Hand it to who hears such things; anything unknown is dropped."""
    match note.method:
        case (
            "notifications/tools/list_changed"
            | "notifications/resources/list_changed"
            | "notifications/prompts/list_changed"
        ):
            listener.lists_changed()
        case "notifications/resources/updated":
            listener.resource_updated(note.params)
        case "notifications/message":
            text = bytes(note.params)[:500].decode(errors="replace")
            _log.debug("log of the server: %s", text, extra={"server": server})
        case _:
            _log.debug("ignored %s", note.method[:64], extra={"server": server})
