"""Tests of mesh_sdk.client.settings."""

import logging
from pathlib import Path

import pytest

from mesh_sdk.client.settings import LOGGER, ClientSettings


def test_settings_are_those_of_earlier_clients() -> None:
    usual = ClientSettings.from_env({})
    assert (usual.pool_size, usual.pool_min) == (10, 2)
    assert (usual.retry_attempts, usual.retry_delay_s, usual.keepalive_s) == (3, 0.1, 30)
    given = ClientSettings.from_env(
        {
            "MCP_POOL_SIZE": "4",
            "MCP_POOL_MIN": "1",
            "MCP_RETRY_ATTEMPTS": "0",
            "MCP_RETRY_DELAY": "250",
            "MCP_KEEPALIVE": "5",
            "MCP_LOG_LEVEL": "debug",
        }
    )
    assert (given.pool_size, given.pool_min, given.retry_attempts) == (4, 1, 0)
    assert (given.retry_delay_s, given.keepalive_s, given.log_level) == (0.25, 5, "debug")
    assert ClientSettings.from_env({"MCP_POOL_SIZE": "1"}).pool_min == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MCP_POOL_SIZE", "0"),
        ("MCP_POOL_SIZE", "many"),
        ("MCP_RETRY_ATTEMPTS", "-1"),
        ("MCP_RETRY_DELAY", "1e9"),
        ("MCP_KEEPALIVE", "nan"),
    ],
)
def test_variable_out_of_range_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        ClientSettings.from_env({name: value})


def test_unknown_log_level_is_refused() -> None:
    with pytest.raises(ValueError, match="log_level"):
        ClientSettings(log_level="loud")


def test_log_file_gets_the_package_s_messages_once(tmp_path: Path) -> None:
    file = tmp_path / "client.log"
    settings = ClientSettings(log_level="info", log_file=str(file))
    logger = logging.getLogger(LOGGER)
    before, level = list(logger.handlers), logger.level
    try:
        settings.apply_logging()
        settings.apply_logging()
        logger.info("something happened")
        assert file.read_text().count("something happened") == 1
    finally:
        for handler in [one for one in logger.handlers if one not in before]:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
