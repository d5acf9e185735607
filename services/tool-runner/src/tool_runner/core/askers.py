"""Which requests of a server ask back, so that they can be kept apart from other callers' ones.

On a byte stream a server's question does not say which call it belongs to. A request that asked
while it was alone is known to ask; those that were under way together when a question could not
be told apart are suspected. Both run apart from other callers from then on (docs/adr/0015).
"""

from mcp_proto.errors import MeshError
from mcp_proto.members import pick
from mcp_proto.methods import routing_member

__all__ = ["CLEARED_AFTER", "TARGETS_MAX", "Askers", "target_of"]

TARGETS_MAX = 256
"""Targets remembered per server; above it the oldest is forgotten, and learnt again if it asks."""

CLEARED_AFTER = 3
"""Runs without a question after which a suspect is one no more: it was only there by chance."""

Target = tuple[str, str]
_ASKED = -1


def target_of(method: str, params: bytes) -> Target:
    """What a request is about: its method, and the tool, prompt or URI."""
    member = routing_member(method)
    if member is None:
        return method, ""
    try:
        return method, bytes(pick(params, member).get(member, b"")).decode(errors="replace")
    except MeshError:
        return method, ""


class Askers:
    """The targets of one server that ask. Kept over the lives of the server."""

    def __init__(self) -> None:
        self._quiet_runs: dict[Target, int] = {}
        """Runs without a question, or ``_ASKED``."""

    def __bool__(self) -> bool:
        return bool(self._quiet_runs)

    def __contains__(self, target: Target) -> bool:
        return target in self._quiet_runs

    def proven(self, target: Target) -> bool:
        """Whether it has asked for certain."""
        return self._quiet_runs.get(target) == _ASKED

    def prove(self, target: Target) -> None:
        """It asked, and it was certain that it did."""
        self._keep(target, _ASKED)

    def suspect(self, target: Target) -> None:
        """It may have asked."""
        if not self.proven(target):
            self._keep(target, 0)

    def ended(self, target: Target) -> None:
        """It ran to its end; a suspect that never asks is cleared."""
        runs = self._quiet_runs.get(target, _ASKED)
        if runs == _ASKED:
            return
        if runs + 1 >= CLEARED_AFTER:
            del self._quiet_runs[target]
        else:
            self._quiet_runs[target] = runs + 1

    def _keep(self, target: Target, runs: int) -> None:
        if target not in self._quiet_runs and len(self._quiet_runs) >= TARGETS_MAX:
            del self._quiet_runs[next(iter(self._quiet_runs))]
        self._quiet_runs[target] = runs
