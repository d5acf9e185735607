"""What a server says in ``WWW-Authenticate`` when it refuses a request (RFC 9110, 11.6.1)."""

import re
from collections.abc import Iterable, Mapping

__all__ = ["HEADER_CHARS_MAX", "bearer_challenge"]

HEADER_CHARS_MAX = 8 * 1024
"""Read of all the fields together."""
PARAMETERS_MAX = 32

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_NAME})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))')
_SCHEME = re.compile(rf"({_NAME})(?=\s|,|$)(?:[ \t]+[A-Za-z0-9\-._~+/]+=*(?=\s*(?:,|$)))?")
_GAP = re.compile(r"[\s,]*")


def bearer_challenge(fields: Iterable[str]) -> Mapping[str, str]:
    """Parameters of the Bearer challenge, names in lower case; {} when there is none.

    Of several, the one that names its metadata counts. What cannot be read ends the reading.
    """
    found: list[dict[str, str]] = []
    bearer = False
    text = ",".join(fields)[:HEADER_CHARS_MAX]
    place = 0
    while place < len(text):
        gap = _GAP.match(text, place)
        place = gap.end() if gap is not None else place
        if (parameter := _PARAMETER.match(text, place)) is not None:
            place = parameter.end()
            if bearer and len(found[-1]) < PARAMETERS_MAX:
                found[-1].setdefault(parameter[1].lower(), _value(parameter))
        elif (scheme := _SCHEME.match(text, place)) is not None:
            place = scheme.end(1)
            bearer = scheme[1].lower() == "bearer"
            if bearer:
                found.append({})
            else:
                place = scheme.end()
        else:
            break
    named = [one for one in found if "resource_metadata" in one]
    return (named or found or [{}])[0]


def _value(parameter: re.Match[str]) -> str:
    if parameter[2] is not None:
        return re.sub(r"\\(.)", r"\1", parameter[2])
    return parameter[3]
