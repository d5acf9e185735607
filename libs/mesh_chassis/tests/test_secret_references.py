"""Secrets by reference: read where they are, never shown."""

from pathlib import Path

import pytest

from mesh_chassis.config import ConfigError
from mesh_chassis.secret_references import secret_of


def test_a_secret_is_read_from_variable_and_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THE_KEY", " s3cret\n")
    (tmp_path / "key").write_text("other\n")
    assert secret_of("env:THE_KEY", "a.b") == "s3cret"
    assert secret_of(f"file:{tmp_path}/key", "a.b") == "other"
    assert secret_of("", "a.b") == ""


@pytest.mark.parametrize("content", [None, "", "\n", "two\nlines", "t\u00e9l"])
def test_one_that_cannot_be_used_is_named_by_its_key_unseen(
    content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)
    if content is not None:
        monkeypatch.setenv("THE_KEY", content)
        (tmp_path / "key").write_text(content)
    for reference in ("env:THE_KEY", f"file:{tmp_path}/key"):
        with pytest.raises(ConfigError) as caught:
            secret_of(reference, "a.b")
        assert caught.value.key == "a.b"
        assert "lines" not in str(caught.value)
