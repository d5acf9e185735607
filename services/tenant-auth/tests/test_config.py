"""Private files: who may read them and what they may hold."""

from pathlib import Path

import pytest

from mesh_chassis.callerctx import new_kek
from mesh_chassis.config import ConfigError
from tenant_auth.config import SecurityConfig, read_secrets
from tenant_auth.core.tokens import is_static

TOKEN = "of-my-own-choosing"


def private(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> SecurityConfig:
    return SecurityConfig(
        pepper_file=private(tmp_path / "pepper", "p" * 43),
        kek_file=private(tmp_path / "kek", new_kek()),
        static_token_file=private(tmp_path / "static.token", f"{TOKEN}\n"),
    )


def refusal(config: SecurityConfig) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_secrets(config)
    assert "security.static_token_file" in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value


def test_token_file_is_read_without_its_line_end(config: SecurityConfig) -> None:
    secrets = read_secrets(config)

    assert secrets.static is not None
    assert is_static(TOKEN, secrets.static)
    assert TOKEN not in repr(secrets)


def test_there_is_no_token_unless_a_file_is_named(config: SecurityConfig) -> None:
    without = SecurityConfig(pepper_file=config.pepper_file, kek_file=config.kek_file)

    assert read_secrets(without).static is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_token_file_that_others_can_use_is_refused(config: SecurityConfig, mode: int) -> None:
    Path(config.static_token_file).chmod(mode)

    assert f"{mode:04o}" in str(refusal(config))


def test_token_file_that_is_missing_is_refused(config: SecurityConfig) -> None:
    Path(config.static_token_file).unlink()

    assert "cannot read" in str(refusal(config))


@pytest.mark.parametrize("text", ["", "\n", "short", f"{TOKEN}\n{TOKEN}", "mk_live_" + "x" * 40])
def test_token_file_with_anything_else_in_it_is_refused(config: SecurityConfig, text: str) -> None:
    Path(config.static_token_file).write_text(text)

    refusal(config)
