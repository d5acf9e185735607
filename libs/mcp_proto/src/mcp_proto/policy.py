"""May this caller use this tool: one decision for the list and for the call.

Deny wins; what no rule allows is denied; then the tool's permission, or ``CallTools`` when its
catalogue entry names none. Patterns are globs over the resolved pair ``server:tool``, never over
an alias, so no other spelling of a name reaches past a rule.
"""

import re
from functools import lru_cache

import msgspec

from mcp_proto.contracts.tenant_auth import Grant

__all__ = ["CALL_TOOLS", "Denial", "matches", "permits"]

CALL_TOOLS = "CallTools"
"""Permission needed for a tool whose catalogue entry names none."""


class Denial(msgspec.Struct, frozen=True):
    """Why a grant does not cover a tool; both texts are public.

    Attributes:
        reason: a clause for a person: ``no allow rule covers time:now``.
        missing: the grant that would change it: ``an allow rule for time:now``.
    """

    reason: str
    missing: str


_PATTERNS_MAX = 4096  # compiled rule lists kept; one per set of rules, some hundreds in practice


@lru_cache(maxsize=_PATTERNS_MAX)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    # One automaton per list. Runs of stars are one star, or a pattern such as "*a*a*a" written
    # with many more of them would take exponential time.
    if not patterns:
        return None
    return re.compile("|".join(f"(?:{_translate(pattern)})" for pattern in patterns), re.DOTALL)


def _translate(pattern: str) -> str:
    pieces = [
        "".join("." if char == "?" else re.escape(char) for char in part)
        for part in re.sub(r"\*+", "*", pattern).split("*")
    ]
    if len(pieces) == 1:
        return pieces[0]
    head, *middle, tail = pieces
    # The shortest match of each middle part is final (atomic), which keeps matching linear in
    # the number of stars; the tail may then stand anywhere behind, at the end.
    return head + "".join(f"(?>.*?{part})" for part in middle) + ".*" + tail


def matches(pattern: str, server: str, tool: str) -> bool:
    """Whether a glob (``*`` any text, ``?`` one character, case-sensitive) covers a tool."""
    compiled = _compiled((pattern,))
    return compiled is not None and compiled.fullmatch(f"{server}:{tool}") is not None


def permits(grant: Grant, server: str, tool: str, permission: str) -> Denial | None:
    """Decide whether a grant covers a tool.

    Args:
        grant: what the caller may do.
        server: resolved server name; it never holds a colon.
        tool: the server's own name of the tool.
        permission: permission the catalogue entry names; "" = ``CallTools`` is needed.

    Returns:
        None when allowed, else why not and what is missing.
    """
    pair = f"{server}:{tool}"
    deny = _compiled(grant.deny)
    if deny is not None and deny.fullmatch(pair) is not None:
        return Denial(f"a deny rule covers {pair}", f"a grant without a deny rule for {pair}")
    allow = _compiled(grant.allow)
    if allow is None or allow.fullmatch(pair) is None:
        return Denial(f"no allow rule covers {pair}", f"an allow rule for {pair}")
    needed = permission or CALL_TOOLS
    if needed in grant.permissions:
        return None
    return Denial(f"the caller lacks permission {needed}", f"permission {needed}")
