"""``[leafnodes]`` of ``mesh.toml``: brokers elsewhere that dial in and bring agents along."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.ids import is_instance_id, is_server_name

__all__ = ["HomeTable", "LeafnodesTable"]


class HomeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[leafnodes.homes]]``: one broker that may dial in.

    Attributes:
        name: the seed of its key is ``keys/leaf-<name>.nk`` of the state directory.
        agents: instance ids of the agents behind it, each with the servers that it may be. What
            is not named here can neither be served, called nor heard from there.
    """

    name: str
    agents: dict[str, tuple[str, ...]]


class LeafnodesTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[leafnodes]``: the listener for them.

    Attributes:
        host: its address.
        port: its port; 0 = there is none.
        tls_cert_file: certificate; needed wherever others can listen on the way.
        tls_key_file: its key.
        homes: who may dial in.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    tls_cert_file: str = ""
    tls_key_file: str = ""
    homes: tuple[HomeTable, ...] = ()

    def problem(self) -> str | None:
        """What does not fit together, beginning with the key; None = nothing."""
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            return "leafnodes.tls_cert_file: a certificate and its key go together"
        if self.homes and not self.port:
            return "leafnodes.port: needed for homes to dial in"
        seen: set[str] = set()
        for index, home in enumerate(self.homes):
            key = f"leafnodes.homes[{index}]"
            if not is_instance_id(home.name):
                return f"{key}.name: letters, digits, - and _"
            for instance in (f"leaf-{home.name}", *home.agents):
                if not is_instance_id(instance):
                    return f"{key}.agents: {instance!r} is no instance id"
                if instance in seen:
                    return f"{key}: {instance} is used twice"
                seen.add(instance)
            for instance, servers in home.agents.items():
                if not servers or not all(is_server_name(server) for server in servers):
                    return f"{key}.agents.{instance}: names the servers that it may be"
        return None
