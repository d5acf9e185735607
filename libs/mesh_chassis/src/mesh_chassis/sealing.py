"""Sealed tokens: what a client carries for the mesh and may neither read nor change.

Wire form ``<kid>.<base64url(nonce + AES-256-GCM)>``. All gateways share the keys (``seal.{kid}`` in
``mesh_keys``, themselves sealed under the key encryption key), so any of them opens what another
sealed. The purpose is authenticated with the token: a sealed task id is no sealed state.

AES-256-GCM with random nonces is safe up to 2^32 tokens per key; a key seals for 30 days.
"""

import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_proto.contracts.tenant_auth import SealingKey
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis import base64url
from mesh_chassis.clock import now_ms
from mesh_chassis.keyring import SEAL_PREFIX, SealRing

__all__ = [
    "SEALING_KEY_BYTES",
    "TOKEN_CHARS_MAX",
    "Sealer",
    "new_sealing_key",
    "open_sealing_key",
]

NONCE_BYTES = 12
SEALING_KEY_BYTES = 32
TAG_BYTES = 16

TOKEN_CHARS_MAX = 512 * 1024
"""Longest token made or opened: a server's own state travels in one, and both directions of a
call have room for it below the inline limit of an edge (10 MiB)."""


def new_sealing_key(
    kek: bytes, kid: str, *, created_ms: int, use_from_ms: int, key: bytes | None = None
) -> SealingKey:
    """Make a sealing key; the value of ``seal.{kid}`` in ``mesh_keys``.

    Args:
        kek: 32 bytes.
        kid: its name.
        created_ms: now, Unix ms.
        use_from_ms: when sealing with it begins; every gateway must have heard of it by then.
        key: 32 bytes; None = random.
    """
    nonce = os.urandom(NONCE_BYTES)
    secret = os.urandom(SEALING_KEY_BYTES) if key is None else key
    sealed = nonce + AESGCM(kek).encrypt(nonce, secret, f"{SEAL_PREFIX}{kid}".encode())
    return SealingKey(kid=kid, sealed=sealed, created_ms=created_ms, use_from_ms=use_from_ms)


def open_sealing_key(kek: bytes, record: SealingKey) -> bytes:
    """Unseal a sealing key.

    Raises:
        MeshError: ``internal``: sealed under another KEK, or altered.
    """
    nonce, sealed = record.sealed[:NONCE_BYTES], record.sealed[NONCE_BYTES:]
    try:
        key = AESGCM(kek).decrypt(nonce, sealed, f"{SEAL_PREFIX}{record.kid}".encode())
    except (InvalidTag, ValueError) as error:
        key, cause = b"", error
    else:
        cause = None
    if len(key) != SEALING_KEY_BYTES:
        raise MeshError(
            ErrorKind.INTERNAL, "a sealing key cannot be opened", internal=f"kid {record.kid}"
        ) from cause
    return key


class Sealer:
    """Seals and opens; held by gateways.

    Args:
        ring: the keys.
        kek: opens them.
        clock_ms: broker time, Unix ms: it decides which key is in use.
    """

    def __init__(self, ring: SealRing, kek: bytes, *, clock_ms: Callable[[], int] = now_ms) -> None:
        self._ring = ring
        self._kek = kek
        self._clock_ms = clock_ms
        self._opened: dict[str, AESGCM] = {}
        ring.on_removed(self._opened.clear)

    def seal(self, purpose: str, payload: bytes) -> str:
        """A token that only a gateway opens, and only for the same purpose.

        Raises:
            MeshError: ``bus``: no key is known yet; ``internal``: the key cannot be opened;
                ``too_large``.
        """
        record = self._ring.current(self._clock_ms())
        if record is None:
            raise MeshError(ErrorKind.BUS, "no sealing key is known yet", retry_after_s=1.0)
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher(record).encrypt(nonce, payload, _aad(record.kid, purpose))
        token = f"{record.kid}.{base64url.encode(nonce + sealed)}"
        if len(token) > TOKEN_CHARS_MAX:
            raise MeshError(
                ErrorKind.TOO_LARGE, f"a sealed value exceeds {TOKEN_CHARS_MAX} characters"
            )
        return token

    def open(self, purpose: str, token: str) -> bytes:
        """What was sealed.

        Raises:
            MeshError: ``params`` when it cannot be opened: altered, foreign, of another purpose,
                or its key is gone. The text never says which.
        """
        kid, _, body = token[: TOKEN_CHARS_MAX + 1].partition(".")
        record = self._ring.record(kid)
        if record is None or len(token) > TOKEN_CHARS_MAX:
            raise _refused("unknown key, or too long")
        try:
            data = base64url.decode(body)
            if len(data) < NONCE_BYTES + TAG_BYTES:
                raise _refused("too short")
            cipher = self._cipher(record)
            return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _aad(kid, purpose))
        except InvalidTag:
            raise _refused("altered, or of another purpose") from None
        except ValueError:
            raise _refused("malformed") from None
        except MeshError as error:
            raise _refused(error.internal or error.message) from None

    def _cipher(self, record: SealingKey) -> AESGCM:
        cipher = self._opened.get(record.kid)
        if cipher is None:
            cipher = AESGCM(open_sealing_key(self._kek, record))
            self._opened[record.kid] = cipher
        return cipher


def _aad(kid: str, purpose: str) -> bytes:
    return f"{kid}.{purpose}".encode()


def _refused(internal: str) -> MeshError:
    return MeshError(ErrorKind.PARAMS, "a sealed value cannot be opened", internal=internal)
