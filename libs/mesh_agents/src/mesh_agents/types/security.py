"""``security``: dangerous calls and secrets in given files.

Input and output as ``reviewer`` (``inspection.Inspection``, ``findings.Report``). Tools: ``ast``
(own rules over the syntax tree, Python), ``secrets`` (own rules, every text), ``bandit`` (Python;
part of the default where it is installed, an error where it is asked for and is not).
"""

import importlib.util

from mesh_agents.contract import AgentType, StepInput, StepOutput
from mesh_agents.types.code_rules import code_findings
from mesh_agents.types.findings import Raw
from mesh_agents.types.inspection import inspect
from mesh_agents.types.linters import PYTHON, Asked, bandit, version_of
from mesh_agents.types.secret_rules import secret_findings

__all__ = ["SECURITY", "run"]

OWN_VERSION = "1"
"""Of the rules in ``code_rules`` and ``secret_rules``; counts up when a rule changes."""


def _ast(asked: Asked) -> list[Raw]:
    return [
        raw
        for one in asked.files
        if one.path.suffix in PYTHON
        for raw in code_findings(one.name, asked.texts[one.name])
    ]


def _secrets(asked: Asked) -> list[Raw]:
    return [raw for one in asked.files for raw in secret_findings(one.name, asked.texts[one.name])]


def _version(tool: str) -> str:
    return version_of(tool) if tool == "bandit" else OWN_VERSION


def run(step: StepInput) -> StepOutput:
    """Run the rules; see the module."""
    tools = {"ast": _ast, "secrets": _secrets, "bandit": bandit}
    optional = [] if importlib.util.find_spec("bandit") else ["bandit"]
    return inspect(step, tools, _version, suffixes=(), without=optional)


SECURITY = AgentType(
    name="security",
    description="Finds dangerous calls (eval, shell=True, pickle, yaml.load and others, and what "
    "bandit finds where it is installed) and secrets in files of its roots.",
    capabilities=("code_review", "security", "python"),
    run=run,
    kinds=frozenset({"call", "vote"}),
)
