"""Secrets in text: known shapes, and assignments to telling names of what looks random.

What was found is never repeated: a message shows four characters and the length.
"""

import math
import re
from collections import Counter

from mesh_agents.types.findings import Raw

__all__ = ["TOOL", "entropy", "secret_findings"]

TOOL = "secrets"
BITS_MIN = 3.5
"""Shannon entropy in bits per character above which a text counts as random."""
BITS_MIN_HEX = 3.0
"""The same for texts of hexadecimal digits, which cannot have more than 4."""
LINE_CHARS_MAX = 5_000
"""Longer lines are data or generated code; only their beginning is looked at."""
_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("private-key", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    ("aws-key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("github-token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b")),
    ("slack-token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}")),
    ("google-key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("jwt", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")),
    ("mesh-key", re.compile(r"\bmk_[a-z]+_[A-Za-z0-9]{12}_[A-Za-z0-9]{43}_[0-9a-f]{8}\b")),
    ("url-password", re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s:/@'\"{}<>$]+:([^\s:/@'\"{}<>$]{6,})@")),
)  # fmt: skip
_NAMED = re.compile(
    r"(?i)\b[\w.-]*(?:secret|token|passw(?:or)?d|api[_-]?key|private[_-]?key|credential)[\w.-]*"
    r"[\"']?\s*(?:=|:|=>)\s*[\"']([A-Za-z0-9+/=_.\-]{16,200})[\"']"
)
_HEX = re.compile(r"\A[0-9a-fA-F]+\Z")
_PLACEHOLDER = re.compile(
    r"(?i)example|sample|changeme|placeholder|dummy|your[_-]|xxxx|0000|\.\.\."
)


def entropy(text: str) -> float:
    """Shannon entropy in bits per character."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values()) if text else 0.0


def secret_findings(name: str, source: str) -> list[Raw]:
    """At most one finding per line and rule."""
    found: list[Raw] = []
    for number, line in enumerate(source.splitlines(), 1):
        text = line[:LINE_CHARS_MAX]
        for rule, shape in _SHAPES:
            match = shape.search(text)
            if match and not _PLACEHOLDER.search(match.group()):
                found.append(Raw(name, number, rule, TOOL, _shown(match)))
        match = _NAMED.search(text)
        if match and _random(match.group(1)) and not any(one.line == number for one in found):
            found.append(Raw(name, number, "high-entropy", TOOL, _shown(match)))
    return found


def _random(text: str) -> bool:
    if _PLACEHOLDER.search(text):
        return False
    return entropy(text) >= (BITS_MIN_HEX if _HEX.match(text) else BITS_MIN) and any(
        char.isdigit() for char in text
    )


def _shown(match: re.Match[str]) -> str:
    secret = match.group(match.lastindex or 0)
    return f"looks like a secret: {secret[:4]}… ({len(secret)} characters)"
