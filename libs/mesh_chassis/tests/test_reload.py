"""A changed configuration is taken over whole, or not at all."""

import asyncio
from pathlib import Path

import msgspec

from mcp_proto.contracts.reload import CANDIDATE
from mesh_chassis.config import ConfigError, load
from mesh_chassis.reload import Reloader, ReloadPart, changed_keys, covered


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rate: float = 1.0
    port: int = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limits: Limits = Limits()
    words: tuple[str, ...] = ()


class Part:
    """Takes a key over, and keeps what it was given."""

    def __init__(self, key: str, *, fails_with: Exception | None = None) -> None:
        self.key = key
        self.given: list[Config] = []
        self.fails_with = fails_with
        self.refuses = ""

    def part(self) -> ReloadPart:
        async def apply(config: msgspec.Struct) -> None:
            assert isinstance(config, Config)
            self.given.append(config)
            if self.fails_with is not None and len(self.given) == 1:
                raise self.fails_with

        def check(config: msgspec.Struct) -> None:
            if self.refuses:
                raise ConfigError("", self.key, self.refuses)

        return ReloadPart(keys=(self.key,), apply=apply, check=check)


def reloader(path: Path, *parts: Part) -> Reloader[Config]:
    return Reloader(
        load(Config, path, {}),
        path=path,
        read=lambda one: load(Config, one, {}),
        parts=[part.part() for part in parts],
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


async def test_changed_key_is_taken_over_by_its_part_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "")
    rate, words = Part("limits.rate"), Part("words")
    reload = reloader(path, rate, words)
    write(path, "[limits]\nrate = 2.0\n")

    answer = await reload.apply()

    assert (answer.accepted, answer.changed) == (True, ("limits.rate",))
    assert [one.limits.rate for one in rate.given] == [2.0]
    assert words.given == []
    assert reload.config.limits.rate == 2.0


async def test_key_that_needs_a_restart_keeps_everything_else_from_changing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "")
    rate = Part("limits.rate")
    reload = reloader(path, rate)
    write(path, "[limits]\nrate = 2.0\nport = 2\n")

    answer = await reload.apply()

    assert (answer.accepted, answer.restart) == (False, ("limits.port",))
    assert rate.given == []
    assert reload.config == Config()


async def test_part_that_fails_has_the_old_configuration_put_back_everywhere(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.toml", "")
    rate, words = Part("limits"), Part("words", fails_with=ValueError("asked for"))
    reload = reloader(path, rate, words)
    write(path, 'words = ["new"]\n[limits]\nrate = 2.0\n')

    answer = await reload.apply()

    assert answer.problem == "words: could not be taken over (see the log of the service)"
    assert [one.limits.rate for one in rate.given] == [2.0, 1.0]
    assert [one.words for one in words.given] == [("new",), ()]
    assert reload.config == Config()


async def test_wrong_file_and_refused_values_change_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "")
    rate = Part("limits.rate")
    reload = reloader(path, rate)
    write(path, "[limits]\nrte = 2.0\n")
    assert "did you mean rate" in (await reload.apply()).problem
    write(path, "[limits]\nrate = 2.0\n")
    rate.refuses = "too much"
    assert (await reload.apply()).problem == "limits.rate: too much"
    assert rate.given == []


async def test_check_looks_at_the_candidate_and_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "")
    rate = Part("limits.rate")
    reload = reloader(path, rate)
    write(tmp_path / f"a.toml{CANDIDATE}", "[limits]\nrate = 2.0\n")

    answer = await reload.check()

    assert (answer.accepted, answer.changed) == (True, ("limits.rate",))
    assert rate.given == []


async def test_reloads_at_once_run_one_after_the_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "")
    rate = Part("limits.rate")
    reload = reloader(path, rate)
    write(path, "[limits]\nrate = 2.0\n")

    answers = await asyncio.gather(reload.apply(), reload.apply())

    assert [answer.changed for answer in answers] == [("limits.rate",), ()]
    assert len(rate.given) == 1


def test_changed_keys_look_into_tables_but_not_into_lists() -> None:
    new = Config(limits=Limits(port=2), words=("a",))
    assert changed_keys(Config(), new) == ["limits.port", "words"]
    assert covered("limits.port", ("limits",))
    assert not covered("limits_more.port", ("limits",))
