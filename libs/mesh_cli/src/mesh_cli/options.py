"""Options shared by commands: connection flags of the ``nats`` tool, durations, headers, JSON."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

from mcp_proto.endpoints import is_endpoint
from mesh_cli.contexts import Context, folder_of, lookup, own_folder, usual
from mesh_cli.state import find

__all__ = [
    "DURATION",
    "Target",
    "checked_endpoint",
    "connection_options",
    "parse_duration",
    "parse_headers",
    "target",
    "with_state",
]

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_URL = "nats://127.0.0.1:4222"
DEFAULT_TIMEOUT_S = 5.0

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|s|m|h)")
_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of a Go duration (``300ms``, ``1m30s``); a bare number is seconds.

    Raises:
        ValueError: not a duration.
    """
    try:
        seconds = float(text)
    except ValueError:
        parts = _PART.findall(text)
        if "".join(number + unit for number, unit in parts) != text or not parts:
            raise ValueError(f"{text!r} is not a duration such as 300ms, 5s or 1m30s") from None
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r} is not a duration")
    return seconds


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = _Duration()


def checked_endpoint(text: str) -> str:
    """An endpoint named on a command line: ``u/<server>``, ``v/<virtual server>``, "" = all.

    Raises:
        click.BadParameter: it is none.
    """
    if not is_endpoint(text):
        raise click.BadParameter(f"{text!r} is not u/SERVER or v/VIRTUAL", param_hint="--endpoint")
    return text


def parse_headers(pairs: Sequence[str]) -> dict[str, str]:
    """Headers from ``K:V`` pairs.

    Raises:
        click.BadParameter: a pair without a colon.
    """
    headers: dict[str, str] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name:
            raise click.BadParameter(f"{pair!r} is not NAME:VALUE", param_hint="--header")
        headers[name] = value.strip()
    return headers


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where and as whom a command connects to the bus.

    Attributes:
        urls: servers to try.
        timeout_s: how long to wait for one answer.
        state: state directory in use; "" = none.
    """

    urls: tuple[str, ...]
    nkey: str = ""
    creds: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    ca: str = ""
    inbox_prefix: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S
    state: str = ""


def with_state(function: F) -> F:
    """Adds ``--state``."""
    return click.option(
        "--state", metavar="DIR", help="State directory (default: nearest .mesh upward)."
    )(function)


def connection_options(function: F) -> F:
    """Adds the connection flags of the ``nats`` tool; they arrive as keyword arguments."""
    options = (
        click.option("-s", "--server", "servers", metavar="URL", help="NATS server URL."),
        click.option("--nkey", metavar="FILE", help="Seed file of an nkey."),
        click.option("--creds", metavar="FILE", help="Credentials file."),
        click.option("--user", metavar="NAME", help="User name, or token."),
        click.option("--password", metavar="TEXT", help="Password."),
        click.option("--tlsca", metavar="FILE", help="Certificate authority."),
        click.option("--context", "context_name", metavar="NAME", help="Connection context."),
        click.option("--inbox-prefix", metavar="PREFIX", help="Prefix of reply subjects."),
        click.option("--timeout", metavar="DURATION", help="Time to wait for an answer."),
    )
    for option in reversed(options):
        function = option(function)
    return with_state(function)


_FLAGS = (
    "servers",
    "nkey",
    "creds",
    "user",
    "password",
    "tlsca",
    "context_name",
    "inbox_prefix",
    "timeout",
    "state",
)
_ENV = {
    "servers": "NATS_URL",
    "nkey": "NATS_NKEY",
    "creds": "NATS_CREDS",
    "user": "NATS_USER",
    "password": "NATS_PASSWORD",
    "tlsca": "NATS_CA",
    "context_name": "NATS_CONTEXT",
    "inbox_prefix": "NATS_INBOX_PREFIX",
    "timeout": "NATS_TIMEOUT",
}


def target(given: dict[str, Any], *, fallback: str = "") -> Target:
    """Resolve flags, environment and context to one target.

    Order: flag after the verb, flag before it, environment, named or selected context, the
    ``operator`` context of the nearest state directory. The recognised flags are taken out of
    ``given``.

    Args:
        given: keyword arguments of a command with ``connection_options``.
        fallback: context used instead of the usual one when none was named.

    Raises:
        Failure: a named context does not exist.
        click.BadParameter: the time-out is no duration.
    """
    context = click.get_current_context(silent=True)
    outer: dict[str, Any] = dict(context.find_root().obj or {}) if context is not None else {}
    flags: dict[str, str] = {}
    for name in _FLAGS:
        value = given.pop(name, None) or outer.get(name) or os.environ.get(_ENV.get(name, ""))
        if value:
            flags[name] = str(value)
    chosen = _context(flags, fallback)
    try:
        timeout_s = parse_duration(flags["timeout"]) if "timeout" in flags else DEFAULT_TIMEOUT_S
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from None
    own = any(name in flags for name in ("nkey", "creds", "user"))
    user = flags.get("user", "" if own else chosen.user)
    password = flags.get("password", "" if own else chosen.password)
    urls = flags.get("servers") or chosen.url or DEFAULT_URL
    state = find(flags.get("state"))
    return Target(
        urls=tuple(part.strip() for part in urls.split(",") if part.strip()),
        nkey=flags.get("nkey", "" if own else chosen.nkey),
        creds=flags.get("creds", "" if own else chosen.creds),
        user=user if password else "",
        password=password,
        token=(user if user and not password else "") or ("" if own else chosen.token),
        ca=flags.get("tlsca", chosen.ca),
        inbox_prefix=flags.get("inbox_prefix", "" if own else chosen.inbox_prefix),
        timeout_s=timeout_s,
        state=str(state.root) if state is not None else "",
    )


def _context(flags: dict[str, str], fallback: str) -> Context:
    state = find(flags.get("state"))
    folders = [*([folder_of(state)] if state is not None else []), own_folder()]
    named = flags.get("context_name") or (
        fallback if state is not None and folders[0].path(fallback).exists() else ""
    )
    if named:
        return lookup(named, folders)
    # A server named by hand is not the mesh of this directory: its keys do not belong there.
    if "servers" in flags and "state" not in flags:
        return Context()
    return usual(state, folders)
