"""Configuration of tenant-auth, and the private files it names."""

import stat
from pathlib import Path
from typing import Annotated

import msgspec
import nkeys
from msgspec import Meta

from mesh_chassis.broker_config import issuer_pair
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.callerctx import load_kek
from mesh_chassis.config import (
    ConfigError,
    LogConfig,
    OpsConfig,
    ServiceSection,
    TelemetryConfig,
    read_secret,
)
from tenant_auth.core.sessions import ABSOLUTE_S, IDLE_S, Lifetimes
from tenant_auth.core.tokens import Pepper, StaticToken, parse_peppers, parse_static

__all__ = [
    "MachinesConfig",
    "Secrets",
    "SecurityConfig",
    "SessionsConfig",
    "SigningConfig",
    "TenantAuthConfig",
    "read_issuer",
    "read_secrets",
]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecurityConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[security]``.

    Attributes:
        development: the demo tenant exists and answers callers without a credential. Gateways
            refuse to start with it unless all their listeners are on loopback.
        env: stands in every API key; a key of another environment is refused.
        pepper_file: file that only this user can read, a secret of 32 to 256 characters per line.
        kek_file: file that only this user can read, base64 of 32 bytes; gateways have the same.
        static_token_file: file that only this user can read, one token of 16 to 1,024 visible
            ASCII characters that stands for the principal ``admin`` of the tenant ``default``;
            "" = none. A restart takes a new one; gateways forget the old one within 30 s.
    """

    development: bool = False
    env: Annotated[str, Meta(pattern=r"\A[a-z0-9]{1,12}\Z")] = "live"
    pepper_file: str = ""
    kek_file: str = ""
    static_token_file: str = ""


class SigningConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[signing]``: ``rotation_days`` is how long one key signs ``Mesh-Ctx``, or seals."""

    rotation_days: Annotated[float, Meta(ge=1 / 24, le=400)] = 30.0


class SessionsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[sessions]``: when a login ends, in seconds."""

    idle_s: Annotated[int, Meta(ge=1)] = IDLE_S
    absolute_s: Annotated[int, Meta(ge=1)] = ABSOLUTE_S

    @property
    def lifetimes(self) -> Lifetimes:
        """As the core takes them."""
        return Lifetimes(idle_s=self.idle_s, absolute_s=self.absolute_s)


class MachinesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[machines]``: credentials of machines.

    Attributes:
        issuer_seed_file: file that only this user can read, the seed of the account (``SA…``) whose
            public key the broker's configuration names for its auth callout; "" = machines get
            no credentials.
    """

    issuer_seed_file: str = ""


class TenantAuthConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    service: ServiceSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    security: SecurityConfig = SecurityConfig()
    signing: SigningConfig = SigningConfig()
    sessions: SessionsConfig = SessionsConfig()
    machines: MachinesConfig = MachinesConfig()


class Secrets(msgspec.Struct, frozen=True):
    """What the files hold."""

    peppers: tuple[Pepper, ...]
    kek: bytes
    static: StaticToken | None = None

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return "Secrets(…)"


def read_secrets(config: SecurityConfig) -> Secrets:
    """Read pepper, KEK and, where it is configured, the server's own token.

    Raises:
        ConfigError: a needed file is not named, missing, readable by others, or holds something
            else.
    """
    _check_private(config.pepper_file, "security.pepper_file")
    _check_private(config.kek_file, "security.kek_file")
    key = "security.pepper_file"
    try:
        peppers = parse_peppers(read_secret(config.pepper_file, key=key))
    except ValueError as error:
        raise ConfigError(config.pepper_file, key, str(error)) from None
    kek = load_kek(config.kek_file, key="security.kek_file")
    return Secrets(peppers, kek, _read_static(config.static_token_file))


def read_issuer(config: MachinesConfig) -> nkeys.KeyPair | None:
    """The key that says to the broker who a machine is; None = there is none.

    Raises:
        ConfigError: the file is missing, readable by others, or holds something else.
    """
    path, key = config.issuer_seed_file, "machines.issuer_seed_file"
    if not path:
        return None
    _check_private(path, key)
    try:
        return issuer_pair(read_secret(path, key=key))
    except ValueError as error:
        raise ConfigError(path, key, str(error)) from None


def _read_static(path: str) -> StaticToken | None:
    if not path:
        return None
    key = "security.static_token_file"
    _check_private(path, key)
    try:
        return parse_static(read_secret(path, key=key))
    except ValueError as error:
        raise ConfigError(path, key, str(error)) from None


def _check_private(path: str, key: str) -> None:
    if not path:
        raise ConfigError("", key, "missing; `mesh up` makes the file, or make one with mode 0600")
    try:
        found = Path(path).stat()
    except OSError as error:
        raise ConfigError(path, key, f"cannot read the file: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(path, key, "is not a regular file")
    if found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(
            path, key, f"other users can use the file (mode {mode:04o}); run chmod 600 on it"
        )
