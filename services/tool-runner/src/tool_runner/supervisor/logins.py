"""A person's part of a server's OAuth: the page to open, and what its answer changes."""

from mcp_proto.contracts.tool_runner import LoginAnswer
from mcp_proto.errors import MeshError
from mcp_proto.server_types import CUSTOM
from tool_runner.supervisor.hosted import HostedServer
from tool_runner.supervisor.settings import HostSettings
from tool_runner.upstreams.factory import make_link
from tool_runner.upstreams.oauth.access import Access

__all__ = ["login"]


async def login(hosted: HostedServer, settings: HostSettings, location: str) -> LoginAnswer:
    """Begin a login, or end it and start the server anew.

    Args:
        hosted: the server, running or not.
        settings: of its host.
        location: as in ``contracts.tool_runner.Login``.
    """
    definition = hosted.definition
    oauth = definition.oauth
    if definition.type != CUSTOM or oauth is None or oauth.grant != "authorization_code":
        problem = f"server {definition.name} is no MCP server with OAuth by authorization_code"
        return LoginAnswer(held=True, problem=problem)
    link = make_link(
        definition, settings.network, trusted=settings.trusted(definition), kept=hosted.kept
    )
    access = Access(oauth, definition.name, link, hosted.kept)
    try:
        link.open()
        if not location:
            url = await access.begin_login()
            return LoginAnswer(held=True, url=url, redirect_url=oauth.redirect_url)
        await access.finish_login(location)
    except MeshError as error:
        return LoginAnswer(held=True, problem=error.message)
    finally:
        await link.close()
    hosted.restart()
    return LoginAnswer(held=True)
