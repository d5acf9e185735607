"""base64url without padding, strictly: one value has one spelling."""

import base64
import binascii

__all__ = ["decode", "encode"]


def encode(data: bytes) -> str:
    """The text of ``data`` (RFC 4648, section 5, without ``=``)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Invert ``encode``.

    Raises:
        binascii.Error: not what ``encode`` writes. (The lenient decoder of the standard library
            skips foreign characters, so that one token would have many spellings.)
    """
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if encode(data) != text:
        raise binascii.Error("not canonical")
    return data
