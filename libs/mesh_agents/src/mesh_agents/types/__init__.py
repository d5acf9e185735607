"""The built-in types: agents that do real work without a model (ADR 0039).

Each module says what its type takes and gives. Types read files only below the folders that the
host gives (``places``), start programs only in process groups of their own (``programs``), and
fail with a word for the kind of failure (``input``, ``limit``, ``timeout``, ``exit``,
``not_installed`` …) and a text that says what to do.
"""

from collections.abc import Mapping

from mesh_agents.contract import AgentType
from mesh_agents.types.analyst import ANALYST
from mesh_agents.types.coder import CODER
from mesh_agents.types.coordinator import COORDINATOR
from mesh_agents.types.researcher import RESEARCHER
from mesh_agents.types.reviewer import REVIEWER
from mesh_agents.types.security import SECURITY
from mesh_agents.types.tester import TESTER
from mesh_agents.types.validator import VALIDATOR

__all__ = ["TYPES"]

TYPES: Mapping[str, AgentType] = {
    one.name: one
    for one in (
        COORDINATOR, RESEARCHER, REVIEWER, SECURITY, CODER, TESTER, ANALYST, VALIDATOR,
    )
}  # fmt: skip
"""By the name that ``agent_spawn`` takes."""
