"""``mesh agent user``: the broker user of one agent, printed for nats-server."""

from pathlib import Path

import pytest

from mesh_chassis.broker_config import public_of
from mesh_cli.main import run


def test_user_has_the_rights_of_the_named_servers_and_keeps_its_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = tmp_path / "w.nk"
    words = ["agent", "user", "weather-1", "--tenant", "acme", "--name", "weather"]
    assert run([*words, "--seed-file", str(seed)]) == 0
    first = capsys.readouterr().out
    assert f"nkey: {public_of(seed.read_text())}" in first
    assert '"mesh.v1.acme.call.weather.> w"' in first
    assert "mesh.v1.acme.call.>" not in first
    assert seed.stat().st_mode & 0o077 == 0
    assert run([*words, "--seed-file", str(seed)]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    "words",
    [
        ["w-1", "--tenant", "acme"],
        ["w-1", "--tenant", "acme", "--name", "a", "--any-name"],
        ["w.1", "--tenant", "acme", "--any-name"],
        ["w-1", "--tenant", "A*", "--any-name"],
        ["w-1", "--tenant", "acme", "--name", "a__b"],
    ],
)
def test_user_that_cannot_be_is_refused_and_makes_no_seed(words: list[str], tmp_path: Path) -> None:
    seed = tmp_path / "w.nk"
    assert run(["agent", "user", *words, "--seed-file", str(seed)]) == 2
    assert not seed.exists()
