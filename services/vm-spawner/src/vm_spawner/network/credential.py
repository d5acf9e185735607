"""Who a machine is at the broker: kept on the host, never seen by the guest."""

import base64
from collections.abc import Callable
from typing import Protocol

import nkeys

__all__ = ["Credential", "JwtCredential", "NkeyCredential", "TokenCredential", "UserCredential"]


class Credential(Protocol):
    """Adds to CONNECT what proves who the machine is."""

    def members(self, nonce: str) -> dict[str, str]:
        """Members of CONNECT.

        Args:
            nonce: of the broker's INFO, to be signed; "" = it asks for no signature.
        """
        ...


class UserCredential:
    """User and password."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password

    def members(self, nonce: str) -> dict[str, str]:
        """``user`` and ``pass``."""
        return {"user": self._user, "pass": self._password}


class TokenCredential:
    """A token that the broker asks tenant-auth about."""

    def __init__(self, token: str) -> None:
        self._token = token

    def members(self, nonce: str) -> dict[str, str]:
        """``auth_token``."""
        return {"auth_token": self._token}


class NkeyCredential:
    """An nkey: the broker's nonce is signed.

    Args:
        seed: ``SU…``.

    Raises:
        ValueError: no seed.
    """

    def __init__(self, seed: bytes) -> None:
        self._public, self._sign = _signer(seed)

    def members(self, nonce: str) -> dict[str, str]:
        """``nkey`` and ``sig``."""
        return {"nkey": self._public, "sig": self._sign(nonce)}


class JwtCredential:
    """A user JWT and the nkey it was issued to.

    Args:
        jwt: the token.
        seed: ``SU…``.

    Raises:
        ValueError: no seed.
    """

    def __init__(self, jwt: str, seed: bytes) -> None:
        self._jwt = jwt
        _, self._sign = _signer(seed)

    def members(self, nonce: str) -> dict[str, str]:
        """``jwt`` and ``sig``."""
        return {"jwt": self._jwt, "sig": self._sign(nonce)}


def _signer(seed: bytes) -> tuple[str, Callable[[str], str]]:
    try:
        pair = nkeys.from_seed(bytearray(seed.strip()))
        public = bytes(pair.public_key).decode()
    except nkeys.NkeysError as error:
        raise ValueError("not an nkey seed") from error

    def sign(nonce: str) -> str:
        return base64.urlsafe_b64encode(pair.sign(nonce.encode())).rstrip(b"=").decode()

    return public, sign
