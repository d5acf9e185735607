"""``reviewer``: linters over given files.

Input (``payload.input``), see ``inspection.Inspection``::

    {"root": "src", "files": ["a.py", "pkg"], "tools": ["ruff"], "unmapped": false}

Output, see ``findings.Report``::

    {"findings": [{"file": "a.py", "line": 3, "class": "unused-import", "rule": "F401",
      "tool": "ruff", "message": "`os` imported but unused", "at": 3}],
     "tools": {"ruff": "0.14.5"}, "knows": ["bare-except", …], "files": 2, "unmapped": {},
     "skipped": {}, "silenced": 0}

A swarm votes on it per finding: equality ``{"kind": "items", "pointer": "/findings", "keys":
["file", "line", "class"]}``, electorate ``findings.electorate(tools)`` among agents that declare
their tool as a capability (``ruff``, ``pyflakes``, ``pylint``, ``bandit``, ``ast``).
"""

from mesh_agents.contract import AgentType, StepInput, StepOutput
from mesh_agents.types.inspection import inspect
from mesh_agents.types.linters import LINTERS, PYTHON, version_of

__all__ = ["REVIEWER", "run"]

_TOOLS = {name: LINTERS[name] for name in ("ruff", "pyflakes", "pylint")}


def run(step: StepInput) -> StepOutput:
    """Run the linters; see the module."""
    return inspect(step, _TOOLS, version_of, suffixes=PYTHON)


REVIEWER = AgentType(
    name="reviewer",
    description="Runs ruff, pyflakes and pylint over Python files of its roots and returns their "
    "findings in one form: file, line, class, rule, tool, message.",
    capabilities=("code_review", "lint", "python"),
    run=run,
    kinds=frozenset({"call", "vote"}),
)
