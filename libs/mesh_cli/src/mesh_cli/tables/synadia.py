"""``[synadia]`` of ``mesh.toml``: tools that callers of the Synadia Agent Protocol prompt."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mcp_proto.agent_protocol import AgentName

__all__ = ["ExposeTable", "SynadiaTable"]

_FOREIGN = re.compile(r"[^a-z0-9-]")


class ExposeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``[[synadia.expose]]``: a tool that can be prompted as an agent.

    Attributes:
        server: server of the tool.
        tool: the server's own name of it.
        argument: argument that the prompt becomes; it has the type string.
        arguments: further arguments, the same for every prompt.
        result: JSON pointer to what of the structured result is the answer; "" = the content.
        tenant: whose agent it is; "" = the mesh's first tenant.
        agent: name of the agent; "" = after the server.
        session: its session; "" = after the tool.
        description: what callers read.
        credential: in whose name prompts without credential call: ``env:NAME``, ``file:PATH``;
            "" = the demo principal, in development.
        timeout_seconds: budget of a prompt; 0 = that of any call.
    """

    server: str
    tool: str
    argument: str = "prompt"
    arguments: dict[str, str | int | float | bool] = {}
    result: Annotated[str, Meta(pattern=r"\A(/[^\0]*)?\Z")] = ""
    tenant: str = ""
    agent: str = ""
    session: str = ""
    description: str = ""
    credential: Annotated[str, Meta(pattern=r"\A((env|file):[^\0]+)?\Z")] = ""
    timeout_seconds: Annotated[float, Meta(ge=0, le=300)] = 0.0

    def name(self, tenant: str) -> AgentName:
        """The agent of the protocol; ``tenant`` where none is named."""
        return AgentName(
            self.agent or _FOREIGN.sub("-", self.server.lower()),
            self.tenant or tenant,
            self.session or _FOREIGN.sub("-", self.tool.lower()),
        )


class SynadiaTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[synadia]``.

    Attributes:
        expose: tools that can be prompted; () = none.
        heartbeat_seconds: how often each says that it lives.
    """

    expose: tuple[ExposeTable, ...] = ()
    heartbeat_seconds: Annotated[int, Meta(ge=1, le=3_600)] = 30

    def problem(self, tenant: str) -> str | None:
        """What is wrong with it: key and reason; None = nothing."""
        seen: set[AgentName] = set()
        for index, one in enumerate(self.expose):
            name = one.name(tenant)
            problem = name.problem()
            if problem is None and name in seen:
                problem = "another one has the same agent, tenant and session; name a session"
            if problem is not None:
                return f"synadia.expose[{index}]: {problem}"
            seen.add(name)
        return None

    def for_gateway(self, tenant: str) -> dict[str, Any]:
        """Table ``[synadia]`` of a gateway; ``tenant`` where none is named."""
        return {
            "heartbeat_s": self.heartbeat_seconds,
            "expose": [
                {
                    "server": one.server,
                    "tool": one.tool,
                    "argument": one.argument,
                    "arguments": one.arguments,
                    "result": one.result,
                    "tenant": one.tenant or tenant,
                    "agent": one.agent,
                    "session": one.session,
                    "description": one.description,
                    "credential": one.credential,
                    "timeout_s": one.timeout_seconds,
                }
                for one in self.expose
            ],
        }
