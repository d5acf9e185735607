"""The signed caller context (``Mesh-Ctx``): who calls, said once by a gateway, checked by anyone.

Wire form ``<kid>.<b64url JSON>.<b64url Ed25519 signature of the first two parts>``. Keys live in
``mesh_keys``: the public half in the open, the private half sealed under a key encryption key
(KEK) that only tenant-auth and gateways have. A gateway signs once per identity and half life;
a verifier checks once per token and remembers it by value, so a call pays about a microsecond.

``cryptography`` rather than PyNaCl: the sealing needs AES-256-GCM, which PyNaCl has only on some
processors, and one library for both halves is one library to update.
"""

import base64
import binascii
import os
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_proto.contracts.tenant_auth import CallerContext, SealedKey
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import ulid
from mcp_proto.limits import CLOCK_LEEWAY_S, HEADER_BYTES_MAX
from mesh_chassis import base64url
from mesh_chassis.clock import now_ms
from mesh_chassis.config import ConfigError, read_secret
from mesh_chassis.keyring import KeyRing

__all__ = [
    "CACHE_MAX",
    "KEK_BYTES",
    "LIFE_MS",
    "ContextSigner",
    "ContextVerifier",
    "load_kek",
    "new_kek",
    "new_signing_key",
    "open_key",
    "seal_key",
]

KEK_BYTES = 32
NONCE_BYTES = 12
SEED_BYTES = 32

LIFE_MS = 300_000
"""Life of a token. Renewed at half, so one that goes out has at least 150 s to live: longer than
any hop, and a call that runs longer was checked when it began."""

CACHE_MAX = 50_000
"""Identities (signer) or tokens (verifier) remembered, least recently used out first."""

TOKEN_CHARS_MAX = HEADER_BYTES_MAX
LEEWAY_MS = int(CLOCK_LEEWAY_S * 1000)

_decoder = msgspec.json.Decoder(CallerContext)
_encoder = msgspec.json.Encoder()


def new_kek() -> str:
    """Text of a new KEK file: 32 random bytes in base64."""
    return base64.b64encode(os.urandom(KEK_BYTES)).decode()


def load_kek(path: str, *, key: str = "keys.kek_file") -> bytes:
    """Read a KEK file.

    Args:
        path: of the file, base64 of 32 bytes.
        key: configuration key that names it, for the error.

    Raises:
        ConfigError: unreadable, or not a KEK.
    """
    try:
        kek = base64.b64decode(read_secret(path, key=key), validate=True)
    except binascii.Error:
        kek = b""
    if len(kek) != KEK_BYTES:
        raise ConfigError(path, key, f"expected {KEK_BYTES} bytes in base64")
    return kek


def _aad(kid: str) -> bytes:
    return f"sign.{kid}".encode()


def seal_key(kek: bytes, kid: str, seed: bytes, *, nonce: bytes | None = None) -> bytes:
    """Seal an Ed25519 seed: nonce + AES-256-GCM under ``kek``, bound to ``kid``.

    Args:
        kek: 32 bytes.
        kid: key id.
        seed: 32 bytes.
        nonce: 12 bytes, never used twice with one KEK; None = random.
    """
    nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
    return nonce + AESGCM(kek).encrypt(nonce, seed, _aad(kid))


def open_key(kek: bytes, record: SealedKey) -> Ed25519PrivateKey:
    """Unseal a signing key.

    Raises:
        MeshError: ``internal``: sealed under another KEK, altered, or not the pair of its public
            half.
    """
    nonce, sealed = record.sealed[:NONCE_BYTES], record.sealed[NONCE_BYTES:]
    try:
        seed = AESGCM(kek).decrypt(nonce, sealed, _aad(record.kid))
        private = Ed25519PrivateKey.from_private_bytes(seed)
    except (InvalidTag, ValueError) as error:
        raise MeshError(
            ErrorKind.INTERNAL, "a signing key cannot be opened", internal=f"kid {record.kid}"
        ) from error
    if private.public_key().public_bytes_raw() != record.public:
        raise MeshError(
            ErrorKind.INTERNAL, "a signing key is not a pair", internal=f"kid {record.kid}"
        )
    return private


def new_signing_key(kek: bytes, *, created_ms: int, use_from_ms: int) -> SealedKey:
    """Make a signing key; the value of ``sign.{kid}`` in ``mesh_keys``.

    Args:
        kek: 32 bytes.
        created_ms: now, Unix ms.
        use_from_ms: when signers begin to use it; verifiers must have heard of it by then.
    """
    seed = os.urandom(SEED_BYTES)
    kid = ulid(created_ms, os.urandom(10))
    return SealedKey(
        kid=kid,
        public=Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw(),
        sealed=seal_key(kek, kid, seed),
        created_ms=created_ms,
        use_from_ms=use_from_ms,
    )


class _Signed(msgspec.Struct, frozen=True):
    token: str
    kid: str
    renew_ms: int
    exp: int


class ContextSigner:
    """Signs caller contexts; held by gateways.

    Args:
        ring: the keys.
        kek: opens their private halves.
        clock_ms: Unix ms.
    """

    def __init__(self, ring: KeyRing, kek: bytes, *, clock_ms: Callable[[], int] = now_ms) -> None:
        self._ring = ring
        self._kek = kek
        self._clock_ms = clock_ms
        self._cache: OrderedDict[tuple[object, ...], _Signed] = OrderedDict()
        self._opened: tuple[str, Ed25519PrivateKey] | None = None

    def sign(self, context: CallerContext) -> str:
        """Token for ``context``, from the cache until half of its life is over.

        Args:
            context: ``exp`` is the latest allowed expiry, Unix ms (that of the credential); 0 =
                no such limit. The token's own expiry is at most five minutes ahead.

        Raises:
            MeshError: ``unauthenticated``: ``exp`` is over; ``bus``: no key can be used yet;
                ``internal``: the key cannot be opened.
        """
        now = self._clock_ms()
        who = (
            *(context.tid, context.sub, context.roles, context.perms),
            *(context.sid, context.iss, context.cid, context.chain, context.gid),
        )
        known = self._cache.get(who)
        if (
            known is not None
            and now < known.renew_ms
            and (not context.exp or known.exp <= context.exp)
            and known.kid in self._ring
        ):
            self._cache.move_to_end(who)
            return known.token
        expires = min(now + LIFE_MS, context.exp or now + LIFE_MS)
        if expires <= now:
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the credential has expired")
        kid, private = self._key(now)
        body = base64url.encode(_encoder.encode(msgspec.structs.replace(context, exp=expires)))
        signed = f"{kid}.{body}"
        token = f"{signed}.{base64url.encode(private.sign(signed.encode()))}"
        self._cache[who] = _Signed(token, kid, now + (expires - now) // 2, expires)
        if len(self._cache) > CACHE_MAX:
            self._cache.popitem(last=False)
        return token

    def _key(self, now: int) -> tuple[str, Ed25519PrivateKey]:
        record = self._ring.signing_key(now)
        if record is None:
            raise MeshError(ErrorKind.BUS, "no signing key is known yet", retry_after_s=1.0)
        if self._opened is None or self._opened[0] != record.kid:
            self._opened = (record.kid, open_key(self._kek, record))
        return self._opened


class ContextVerifier:
    """Verifies caller contexts; held by every service that receives calls.

    Args:
        ring: the keys.
        clock_ms: Unix ms.
    """

    def __init__(self, ring: KeyRing, *, clock_ms: Callable[[], int] = now_ms) -> None:
        self._ring = ring
        self._clock_ms = clock_ms
        self._cache: OrderedDict[str, CallerContext] = OrderedDict()
        # A key that is withdrawn takes the tokens with it that were verified by it.
        ring.on_removed(self._cache.clear)

    def verify(self, token: str) -> CallerContext:
        """What the token says, once it is proven.

        Raises:
            MeshError: ``unauthenticated``: malformed, unknown key, wrong signature or expired
                (two seconds of leeway). The text never says more than that.
        """
        context = self._cache.get(token)
        if context is None:
            context = self._check(token)
            self._cache[token] = context
            if len(self._cache) > CACHE_MAX:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(token)
        if self._clock_ms() >= context.exp + LEEWAY_MS:
            del self._cache[token]
            raise _refused("the caller context has expired", "exp")
        return context

    def _check(self, token: str) -> CallerContext:
        if len(token) > TOKEN_CHARS_MAX:
            raise _refused("the caller context is malformed", "too long")
        try:
            kid, body, signature = token.split(".")
            public = self._ring.public_key(kid)
            if public is None:
                raise _refused("the caller context names an unknown key", kid[:64])
            public.verify(base64url.decode(signature), f"{kid}.{body}".encode())
            context = _decoder.decode(base64url.decode(body))
        except InvalidSignature:
            raise _refused("the caller context has a wrong signature", "signature") from None
        except (ValueError, msgspec.DecodeError) as error:
            raise _refused("the caller context is malformed", str(error)) from None
        return context


def _refused(message: str, internal: str) -> MeshError:
    return MeshError(ErrorKind.UNAUTHENTICATED, message, internal=internal)
