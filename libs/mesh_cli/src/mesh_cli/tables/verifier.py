"""``[integrations.marketeer]`` of ``mesh.toml``: the external verifier of every gateway."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

__all__ = ["VerifierTable"]

_REFERENCES = ("env:", "file:")


class VerifierTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[integrations.marketeer]``: an HTTP service that says whether a request may go on.

    Attributes:
        enabled: the table counts.
        url: ``http`` or ``https`` address that questions are posted to.
        api_key: sent as bearer token: ``env:NAME`` or ``file:PATH`` (read by the gateways), or
            the key itself, best as ``${NAME}``.
        verify_all_requests: every request that goes to a server passes it.
        timeout_seconds: longest wait for a decision.
        on_timeout: what holds while it is silent: ``deny`` or ``allow``.
        cache_seconds: how long a decision holds for the same caller and target; 0 = ask each time.
        send_arguments: send the arguments of tools and prompts, and decide for each anew.
        tls_ca_file: PEM authorities trusted instead of the system's.
    """

    enabled: bool = False
    url: str = ""
    api_key: str = ""
    verify_all_requests: bool = False
    timeout_seconds: Annotated[float, Meta(gt=0, le=30)] = 2.0
    on_timeout: Literal["deny", "allow"] = "deny"
    cache_seconds: Annotated[float, Meta(ge=0, le=3_600)] = 5.0
    send_arguments: bool = False
    tls_ca_file: str = ""

    @property
    def on(self) -> bool:
        """Whether requests are verified."""
        return self.enabled and self.verify_all_requests

    @property
    def literal_key(self) -> str:
        """The key where it stands in the file itself; it is kept in a file of its own."""
        return "" if not self.on or self.api_key.startswith(_REFERENCES) else self.api_key

    def problem(self) -> str | None:
        """What is wrong with it: key and reason; None = nothing."""
        if not self.enabled:
            return None
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            return "url: must be an address http://… or https://…"
        if not usable:
            return "url: must be an address http://… or https://…"
        if "@" in parts.netloc:
            return "url: must not hold a password; use api_key"
        if not self.api_key.isascii() or (self.api_key and not self.api_key.isprintable()):
            return "api_key: must be visible ASCII"
        if self.api_key in _REFERENCES:
            return "api_key: env:NAME or file:PATH names something"
        return None

    def for_gateway(self, key_file: str) -> dict[str, Any]:
        """Table ``[verifier]`` of a gateway; ``key_file`` holds ``literal_key``."""
        return {
            "url": self.url,
            "api_key": f"file:{key_file}" if self.literal_key else self.api_key,
            "timeout_s": self.timeout_seconds,
            "on_timeout": self.on_timeout,
            "cache_s": self.cache_seconds,
            "send_arguments": self.send_arguments,
            "tls_ca_file": self.tls_ca_file,
        }
