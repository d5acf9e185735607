"""Credentials as text: API keys and session tokens, their checksum and their MAC.

``mk_<env>_<id>_<secret>_<crc>`` and ``ms_<id>_<secret>``. The id finds the record; what is
stored is an HMAC under a server-side pepper, enough for 256 random bits (a slow hash would only
slow us). The checksum lets a truncated or mistyped key be refused without a look at any record,
and the fixed prefixes let scanners find leaked keys.

Beside them stands the server's own token: any text its operator chose, kept as a digest.
"""

import hashlib
import hmac
import re
import zlib
from collections.abc import Sequence

import msgspec

__all__ = [
    "CREDENTIAL_CHARS_MAX",
    "ID_RANDOM_BYTES",
    "SECRET_RANDOM_BYTES",
    "STATIC_CHARS_MAX",
    "STATIC_CHARS_MIN",
    "ApiKey",
    "Pepper",
    "SessionToken",
    "StaticToken",
    "is_env",
    "is_static",
    "mac_matches",
    "mac_of",
    "new_key",
    "new_session",
    "parse",
    "parse_peppers",
    "parse_static",
]

ID_RANDOM_BYTES = 12
SECRET_RANDOM_BYTES = 32
CREDENTIAL_CHARS_MAX = 128
"""Longest credential looked at; ours have at most 82 characters."""
STATIC_CHARS_MIN = 16
STATIC_CHARS_MAX = 1_024
"""A signed token of another system fits; what is longer is refused before it is hashed."""

_ID_CHARS = 12
_SECRET_CHARS = 43
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ENV = re.compile(r"[a-z0-9]{1,12}")
_KEY = re.compile(
    r"(?P<body>mk_(?P<env>[a-z0-9]{1,12})_(?P<id>[0-9A-Za-z]{12})_[0-9A-Za-z]{43})"
    r"_(?P<crc>[0-9a-f]{8})"
)
_SESSION = re.compile(r"ms_(?P<id>[0-9A-Za-z]{12})_[0-9A-Za-z]{43}")
_PEPPER = re.compile(r"[!-~]{32,256}")
_PEPPERS_MAX = 8
_STATIC = re.compile(rf"[!-~]{{{STATIC_CHARS_MIN},{STATIC_CHARS_MAX}}}")
_OURS = ("mk_", "ms_")


class ApiKey(msgspec.Struct, frozen=True):
    """A well-formed API key. ``body`` is what the MAC covers."""

    id: str
    body: str


class SessionToken(msgspec.Struct, frozen=True):
    """A well-formed session token. ``body`` is what the MAC covers."""

    id: str
    body: str


class Pepper(msgspec.Struct, frozen=True):
    """A server-side secret; ``name`` is derived from it and stands in records."""

    name: str
    secret: bytes

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return f"Pepper({self.name!r})"


class StaticToken(msgspec.Struct, frozen=True):
    """The server's own token; ``digest`` is its SHA-256, the text is not kept."""

    digest: bytes

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "StaticToken(…)"


def is_env(text: str) -> bool:
    """Whether ``text`` may stand as the environment of a key (``dev``, ``live``)."""
    return _ENV.fullmatch(text) is not None


def new_key(env: str, id_bytes: bytes, secret_bytes: bytes) -> tuple[ApiKey, str]:
    """Make an API key from random bytes.

    Args:
        env: environment, so that a key of one is refused in another.
        id_bytes: ``ID_RANDOM_BYTES`` random bytes.
        secret_bytes: ``SECRET_RANDOM_BYTES`` random bytes.

    Returns:
        The key and its text, which is shown once.
    """
    if not is_env(env):
        raise ValueError(f"not an environment name: {env!r}")
    key_id = _id(id_bytes)
    body = f"mk_{env}_{key_id}_{_secret(secret_bytes)}"
    return ApiKey(key_id, body), f"{body}_{_crc(body)}"


def new_session(id_bytes: bytes, secret_bytes: bytes) -> tuple[SessionToken, str]:
    """Make a session token from random bytes; lengths as in ``new_key``."""
    token_id = _id(id_bytes)
    body = f"ms_{token_id}_{_secret(secret_bytes)}"
    return SessionToken(token_id, body), body


def parse(credential: str, env: str) -> ApiKey | SessionToken | None:
    """Read a credential; None when it is not one of ours, of another environment, or damaged."""
    if len(credential) > CREDENTIAL_CHARS_MAX:
        return None
    key = _KEY.fullmatch(credential)
    if key is not None:
        if key["env"] != env or key["crc"] != _crc(key["body"]):
            return None
        return ApiKey(key["id"], key["body"])
    session = _SESSION.fullmatch(credential)
    return SessionToken(session["id"], credential) if session is not None else None


def mac_of(body: str, pepper: Pepper) -> str:
    """HMAC-SHA-256 in hex."""
    return hmac.new(pepper.secret, body.encode(), hashlib.sha256).hexdigest()


def mac_matches(body: str, mac: str, name: str, peppers: Sequence[Pepper]) -> bool:
    """Whether ``mac``, made under the pepper called ``name``, is that of ``body``.

    Takes the same time whatever the answer; an unknown pepper matches nothing.
    """
    pepper = next((p for p in peppers if p.name == name), None)
    expected = mac_of(body, pepper if pepper is not None else peppers[0])
    same = hmac.compare_digest(expected.encode(), mac.encode())
    return same and pepper is not None


def parse_peppers(text: str) -> tuple[Pepper, ...]:
    """Read a pepper file: one secret of 32 to 256 visible ASCII characters per line.

    Lines that start with ``#`` are comments. The first secret makes new MACs, all are accepted,
    so a pepper is rotated by putting a new line on top and dropping the old one when the last
    key made under it is gone.

    Raises:
        ValueError: none, too many, or a line that is no secret. The line is never shown.
    """
    peppers: list[Pepper] = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        if _PEPPER.fullmatch(word) is None:
            raise ValueError(f"line {number} is not a secret of 32 to 256 visible characters")
        secret = word.encode()
        peppers.append(Pepper(f"p{hashlib.sha256(secret).hexdigest()[:8]}", secret))
    if not 1 <= len(peppers) <= _PEPPERS_MAX:
        raise ValueError(f"holds {len(peppers)} secrets, 1 to {_PEPPERS_MAX} are allowed")
    return tuple(peppers)


def parse_static(text: str) -> StaticToken:
    """Read the file of the server's own token.

    Raises:
        ValueError: not one word of 16 to 1,024 visible ASCII characters, or shaped like a
            credential made here, which would outlive its revocation. The text is never shown.
    """
    if _STATIC.fullmatch(text) is None:
        raise ValueError(
            f"is not one token of {STATIC_CHARS_MIN} to {STATIC_CHARS_MAX} visible ASCII characters"
        )
    if text.startswith(_OURS):
        raise ValueError("holds a key of the mesh, which would outlive its revocation")
    return StaticToken(_digest(text))


def is_static(credential: str, token: StaticToken) -> bool:
    """Whether ``credential`` is the server's own token.

    The time taken depends on the length of ``credential`` alone.
    """
    if len(credential) > STATIC_CHARS_MAX or not credential.isascii():
        return False
    return hmac.compare_digest(_digest(credential), token.digest)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _id(random: bytes) -> str:
    if len(random) != ID_RANDOM_BYTES:
        raise ValueError(f"an id takes {ID_RANDOM_BYTES} random bytes")
    return _base62(int.from_bytes(random), _ID_CHARS)


def _secret(random: bytes) -> str:
    if len(random) != SECRET_RANDOM_BYTES:
        raise ValueError(f"a secret takes {SECRET_RANDOM_BYTES} random bytes")
    return _base62(int.from_bytes(random), _SECRET_CHARS)


def _base62(value: int, chars: int) -> str:
    digits: list[str] = []
    for _ in range(chars):
        value, digit = divmod(value, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _crc(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
