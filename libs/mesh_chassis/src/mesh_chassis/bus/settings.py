"""Configuration of the bus: section ``[bus]`` of every service."""

import msgspec

__all__ = ["BusConfig"]


class BusConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is and who we are there.

    Attributes:
        urls: servers of one cluster, ``nats://`` or ``tls://``; or the one link of a machine
            (``mesh_chassis.link.addresses``), behind which somebody else has the credential.
        nkey_seed_file: file with the nkey seed; read again on every attempt.
        creds_file: JWT credentials file, the alternative to an nkey.
        connect_timeout_s: bound of the first connect, in seconds.
        tls_ca_file: CA bundle for ``tls://``; "" = the system's.
    """

    urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    nkey_seed_file: str = ""
    creds_file: str = ""
    connect_timeout_s: float = 10.0
    tls_ca_file: str = ""
