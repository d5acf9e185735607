"""Contract of ``tool-runner`` beside calls: what one runner says about its servers.

Directed: asked of one instance on ``views_subject``, by operators only, because the last lines of
a server's log may hold anything.
"""

import msgspec

from mcp_proto import subjects

__all__ = [
    "FAILED_STATES",
    "Login",
    "LoginAnswer",
    "ServerView",
    "ServerViews",
    "login_subject",
    "views_subject",
]

SERVICE = "tool-runner"

FAILED_STATES = frozenset({"waiting", "quarantined", "refused"})
"""States of a server whose start has failed at least once, or that is not started at all."""


class ServerView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One server as a runner sees it.

    Attributes:
        tenant: owner; ``_`` = shared.
        server: server name.
        state: ``starting``, ``running``, ``waiting`` (for its next start), ``quarantined``,
            ``stopped``, or ``refused`` (its definition cannot be run).
        reason: why it does not run, as public text; "" while it does.
        pid: process id of its child; 0 = none.
        restarts: starts after an unwanted end.
        inflight: calls running.
        breaker: ``closed``, ``open`` or ``half_open``.
        log: newest lines of the child's stderr.
    """

    tenant: str
    server: str
    state: str
    reason: str = ""
    pid: int = 0
    restarts: int = 0
    inflight: int = 0
    breaker: str = "closed"
    log: tuple[str, ...] = ()


class ServerViews(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: every server that this runner holds or refuses."""

    servers: tuple[ServerView, ...]


class Login(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A person's part of a server's OAuth, asked of a runner on ``login_subject``.

    Attributes:
        tenant: owner; ``_`` = shared.
        server: server name.
        location: "" = begin; else where the authorization server sent the person's browser.
    """

    tenant: str
    server: str
    location: str = ""


class LoginAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to a ``Login``.

    Attributes:
        held: whether this runner holds the server; the rest is empty if not.
        url: page that the person must open; "" after the end of a login.
        redirect_url: where the answer of that page goes.
        problem: why there is no login, as public text; "" = all is well.
    """

    held: bool
    url: str = ""
    redirect_url: str = ""
    problem: str = ""


def login_subject(instance: str) -> str:
    """Subject on which a runner lets a person log in to a server."""
    return subjects.instance(subjects.PLATFORM, instance, "login")


def views_subject(instance: str) -> str:
    """Subject on which a runner tells about its servers."""
    return subjects.instance(subjects.PLATFORM, instance, "servers")
