"""Secrets that the configuration names instead of holding: ``env:NAME`` and ``file:PATH``."""

import os

from mesh_chassis.config import ConfigError, read_secret

__all__ = ["REFERENCE", "secret_of"]

REFERENCE = r"\A((env|file):[^\0]+)?\Z"
"""Pattern of a field that holds a reference, or "" for none."""


def secret_of(reference: str, key: str) -> str:
    """What a reference stands for, without surrounding white space; "" for "".

    Args:
        reference: matches ``REFERENCE``.
        key: dotted configuration key that holds it, for the error.

    Raises:
        ConfigError: it is not there or is no printable ASCII. Its value is never shown.
    """
    if not reference:
        return ""
    kind, _, name = reference.partition(":")
    if kind == "file":
        value = read_secret(name, key=key)
    else:
        value = os.environ.get(name, "").strip()
        if not value:
            raise ConfigError("", key, f"environment variable {name} is not set")
    if not value.isascii() or not value.isprintable():
        raise ConfigError("", key, "the secret is no printable text")
    return value
