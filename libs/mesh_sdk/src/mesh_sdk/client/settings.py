"""Settings of a client: the variables that earlier clients of this kind honour, read once.

``MCP_POOL_SIZE``, ``MCP_POOL_MIN``, ``MCP_RETRY_ATTEMPTS``, ``MCP_RETRY_DELAY`` (ms),
``MCP_KEEPALIVE`` (s), ``MCP_LOG_LEVEL``, ``MCP_LOG_FILE``.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = ["LOGGER", "ClientSettings"]

LOGGER = "mesh_sdk"
"""Logger of everything in this package."""
POOL_MAX = 256
ATTEMPTS_MAX = 20
KEEPALIVE_MAX_S = 3600.0
_LEVELS = ("debug", "info", "warning", "error", "critical")
_FILE_MARK = "mesh_sdk_file"


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a client behaves.

    Attributes:
        pool_size: connections to one address (HTTP, TCP), and calls of one ``batch`` at once.
        pool_min: connections kept ready (TCP).
        retry_attempts: repeats of a request that is proven not to have run; 0 = none.
        retry_delay_s: wait before the first repeat; doubles each time, with jitter. A longer
            ``retryAfterMs`` of the error is honoured.
        keepalive_s: an idle TCP connection is asked for a sign of life so often; an idle HTTP
            connection is used again for so long.
        connect_s: longest connect.
        log_level: of logger ``mesh_sdk``; "" = as the program has it.
        log_file: file that logger writes to; "" = none.
    """

    pool_size: int = 10
    pool_min: int = 2
    retry_attempts: int = 3
    retry_delay_s: float = 0.1
    keepalive_s: float = 30.0
    connect_s: float = 5.0
    log_level: str = ""
    log_file: str = ""

    def __post_init__(self) -> None:
        _check("pool_size", self.pool_size, 1, POOL_MAX)
        _check("pool_min", self.pool_min, 0, POOL_MAX)
        _check("retry_attempts", self.retry_attempts, 0, ATTEMPTS_MAX)
        _check("retry_delay_s", self.retry_delay_s, 0, 60)
        _check("keepalive_s", self.keepalive_s, 0.05, KEEPALIVE_MAX_S)
        _check("connect_s", self.connect_s, 0.01, 300)
        if self.log_level and self.log_level.lower() not in _LEVELS:
            raise ValueError(f"log_level must be one of {', '.join(_LEVELS)}")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "ClientSettings":
        """The defaults with what the environment says.

        Raises:
            ValueError: a variable is no number or out of range; the text names it.
        """
        table = os.environ if env is None else env
        usual = cls()
        size = int(_number(table, "MCP_POOL_SIZE", usual.pool_size, 1, POOL_MAX))
        return cls(
            pool_size=size,
            pool_min=int(_number(table, "MCP_POOL_MIN", min(usual.pool_min, size), 0, POOL_MAX)),
            retry_attempts=int(
                _number(table, "MCP_RETRY_ATTEMPTS", usual.retry_attempts, 0, ATTEMPTS_MAX)
            ),
            retry_delay_s=_number(table, "MCP_RETRY_DELAY", usual.retry_delay_s * 1000, 0, 60_000)
            / 1000,
            keepalive_s=_number(table, "MCP_KEEPALIVE", usual.keepalive_s, 1, KEEPALIVE_MAX_S),
            log_level=table.get("MCP_LOG_LEVEL", ""),
            log_file=table.get("MCP_LOG_FILE", ""),
        )

    def apply_logging(self) -> None:
        """Point the logger where the settings say; nothing happens where they say nothing.

        Raises:
            OSError: the file cannot be written.
        """
        logger = logging.getLogger(LOGGER)
        if self.log_level:
            logger.setLevel(self.log_level.upper())
        if not self.log_file:
            return
        path = str(Path(self.log_file).absolute())
        for handler in logger.handlers:
            if getattr(handler, "baseFilename", None) == path:
                return
        handler = logging.FileHandler(path, encoding="utf-8", delay=False)
        handler.set_name(_FILE_MARK)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g}, not {value:g}")


def _number(table: Mapping[str, str], name: str, usual: float, least: float, most: float) -> float:
    text = table.get(name, "").strip()
    if not text:
        return usual
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, not {text!r}") from None
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g}, not {text}")
    return value
