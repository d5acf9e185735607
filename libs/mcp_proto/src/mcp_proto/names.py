"""Names under which tools are listed: ``server__tool``, at most 64 of ``[A-Za-z0-9_.-]``.

A name must not change because a second server arrives, so every name carries its server, and one
that does not fit gets a short form with a digest. The mapping is one to one: server names hold
no ``__``, short forms end in ``__`` and 16 characters of a digest, and a plain name that happens
to look like that is given a short form too. The way back is a map kept by whoever listed them.
"""

import base64
import hashlib
import re

from mcp_proto.limits import LISTED_NAME_CHARS_MAX

__all__ = [
    "MESH_SERVER",
    "RESERVED_SERVERS",
    "RESULTS_PREFIX",
    "RESULTS_SERVER",
    "SWARM_COORDINATOR",
    "SWARM_SERVER",
    "SWARM_TOOLS",
    "VM_SERVER",
    "VM_SPAWNER",
    "VM_TOOLS",
    "is_listed_name",
    "listed_name",
]

MESH_SERVER = "mesh"
"""The gateway's own tools (``tools_search`` and its companions)."""
RESULTS_SERVER = "results"
"""Stored results, served by every tool-runner."""
RESULTS_PREFIX = f"{MESH_SERVER}://{RESULTS_SERVER}/"
"""What URIs of stored results begin with, at every endpoint."""
SWARM_SERVER = "swarm"
"""Swarms, their agents, tasks and memory, served by every swarm-coordinator."""
SWARM_COORDINATOR = "swarm-coordinator"
"""Service name of swarm coordinators."""
SWARM_TOOLS: frozenset[str] = frozenset((
    "swarm_init", "swarm_list", "swarm_status", "swarm_destroy",
    "agent_spawn", "agent_list", "agent_status", "agent_message", "agent_task",
    "agent_terminate", "agent_types",
    "task_orchestrate", "task_status", "task_result", "task_cancel", "task_list",
    "memory_store", "memory_retrieve", "memory_list", "memory_delete",
))  # fmt: skip
"""Bare names of the swarm's tools: old TCP clients know codes for their failures."""
VM_SERVER = "vm"
"""Machines, served by every vm-spawner."""
VM_SPAWNER = "vm-spawner"
"""Service name of spawners of machines."""
VM_TOOLS: frozenset[str] = frozenset(("vm_spawn", "vm_list", "vm_status", "vm_stop", "vm_logs"))
"""Bare names of the tools of machines."""
RESERVED_SERVERS = frozenset((MESH_SERVER, RESULTS_SERVER, SWARM_SERVER, VM_SERVER))
"""Names that no definition of an upstream server may have, beside those of native toolsets."""

_JOIN = "__"
_DIGEST_CHARS = 16  # 80 bits: an upstream that picks its names cannot aim at another's
_LISTED = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")
_SHORT_FORM = re.compile(rf".*{_JOIN}[a-z2-7]{{{_DIGEST_CHARS}}}", re.DOTALL)
_HEAD_CHARS = LISTED_NAME_CHARS_MAX - len(_JOIN) - _DIGEST_CHARS


def is_listed_name(name: str) -> bool:
    """Whether the name may stand in a list as it is."""
    return _LISTED.fullmatch(name) is not None


def listed_name(server: str, tool: str, *, prefixed: bool = True) -> str:
    """Name under which a tool (or prompt) is listed; the same on every gateway.

    Args:
        server: configured server name (``ids.is_server_name``).
        tool: the server's own name, any text.
        prefixed: False for built-in toolsets, whose names are reserved and stay bare.
    """
    plain = f"{server}{_JOIN}{tool}" if prefixed else tool
    if is_listed_name(plain) and not _SHORT_FORM.fullmatch(tool):
        return plain
    # The separator cannot occur in a server name, so pairs cannot run into each other.
    pair = f"{server}\0{tool}".encode("utf-8", "surrogatepass")
    digest = base64.b32encode(hashlib.sha256(pair).digest()).decode().lower()[:_DIGEST_CHARS]
    head = _FOREIGN.sub("_", plain)[:_HEAD_CHARS].rstrip("_")
    return f"{head}{_JOIN}{digest}"
