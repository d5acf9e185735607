"""Message bodies: where they come from on a command line and how they are printed."""

import sys

from nats.aio.msg import Msg

from mesh_cli import terminal

__all__ = ["print_message", "read_body", "status_of"]

BODY_BYTES_MAX = 10 * 1024 * 1024
"""Longest body read from standard input; the broker takes 1 MiB, the edges 10."""


def read_body(given: str | None, *, force_stdin: bool = False) -> bytes:
    """The body to send: the argument, else standard input when it is a pipe or a file."""
    if given is not None and not force_stdin:
        return given.encode()
    if force_stdin or not sys.stdin.isatty():
        return sys.stdin.buffer.read(BODY_BYTES_MAX)
    return b""


def status_of(message: Msg) -> str:
    """Status header of a message the broker made itself (``503`` = nobody listens); else ""."""
    return (message.headers or {}).get("Status", "") if not message.data else ""


def print_message(message: Msg, *, raw: bool = False, headers_only: bool = False) -> None:
    """Print headers and body, or the body alone."""
    body = message.data.decode(errors="replace")
    if raw:
        terminal.line(body)
        return
    for name, value in (message.headers or {}).items():
        terminal.line(f"{name}: {value}")
    if headers_only:
        return
    if message.headers:
        terminal.line()
    terminal.line(body)
    terminal.line()
