"""Which review tools know which classes of findings: who is competent to vote on what.

The table of the agents (``rule_classes.toml`` of ``mesh_agents``) says which rule is of which
class; the coordinator needs only which tool has any rule of a class. A test holds both together.
"""

from collections.abc import Collection

import msgspec

__all__ = ["LINTERS", "SCANNERS", "electorate"]

LINTERS = ("ruff", "pyflakes", "pylint")
"""Tools of the type ``reviewer``."""
SCANNERS = ("bandit", "ast", "secrets")
"""Tools of the type ``security``."""

_KNOWN = {
    "ruff": (
        "archive-extraction assert-on-tuple bare-except bind-all broad-except "
        "certificates-not-verified duplicate-key empty-f-string eval exec format-arguments "
        "hardcoded-password if-tuple late-future-import literal-identity loop-closure marshal "
        "mutable-default pickle raise-not-implemented redefinition return-outside-function "
        "self-assignment shell singleton-comparison sql-from-text swallowed-exception "
        "syntax-error temporary-name undefined-export undefined-name unused-argument "
        "unused-import unused-variable weak-hash wildcard-import yaml-load"
    ),
    "pyflakes": (
        "assert-on-tuple duplicate-argument duplicate-key empty-f-string format-arguments "
        "if-tuple late-future-import literal-identity raise-not-implemented redefinition "
        "return-outside-function syntax-error undefined-export undefined-name unused-import "
        "unused-variable wildcard-import"
    ),
    "pylint": (
        "assert-on-tuple bare-except broad-except duplicate-argument duplicate-key "
        "empty-f-string eval exec format-arguments late-future-import literal-identity "
        "loop-closure mutable-default raise-not-implemented redefinition "
        "return-outside-function self-assignment singleton-comparison syntax-error "
        "undefined-export undefined-name unused-argument unused-import unused-variable "
        "wildcard-import"
    ),
    "bandit": (
        "archive-extraction bind-all certificates-not-verified eval exec hardcoded-password "
        "marshal pickle shell sql-from-text swallowed-exception temporary-name weak-hash "
        "yaml-load"
    ),
    "ast": (
        "archive-extraction certificates-not-verified eval exec marshal pickle shell "
        "syntax-error temporary-name weak-hash yaml-load"
    ),
    "secrets": "secret",
}


def electorate(also: Collection[str] = ()) -> msgspec.Raw:
    """Class → capabilities of which a voter needs one (``Coordination.electorate``).

    Args:
        also: capabilities that stand for all tools of a type: ``lint`` for the linters,
            ``security`` for the scanners. For agents that declare no tool and run all of them.
    """
    classes: dict[str, list[str]] = {}
    for tool, known in _KNOWN.items():
        for name in known.split():
            holders = classes.setdefault(name, [])
            holders.append(tool)
            group = "lint" if tool in LINTERS else "security"
            if group in also and group not in holders:
                holders.append(group)
    return msgspec.Raw(msgspec.json.encode(classes, order="sorted"))
