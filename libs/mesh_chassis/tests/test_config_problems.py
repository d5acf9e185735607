"""Everything that is wrong with a file is reported, and the rest of it is still read."""

from pathlib import Path

import msgspec

from mesh_chassis.config_problems import look


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    slots: int = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: str = "info"
    server: Server = Server(name="own")
    servers: tuple[Server, ...] = ()


def test_every_wrong_key_is_reported_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        """
        level = "${LEVEL}"
        [[servers]]
        name = "a"
        slots = "many"
        [[servers]]
        nam = "b"
        [[servers]]
        name = "c"
        """
    )
    looked = look(Config, path, {})

    assert [(error.key, error.reason.partition(",")[0]) for error in looked.problems] == [
        ("level", "environment variable LEVEL is not set and has no default"),
        ("servers[0].slots", "Expected `int`"),
        ("servers[1].nam", "unknown key; did you mean name? (known here: name"),
        ("servers[1].name", "required"),
    ]
    assert looked.content == Config(servers=(Server(name="c"),))
    assert looked.kept == {"servers": [2]}


def test_file_that_is_no_toml_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("level = \n")
    looked = look(Config, path, {})
    assert len(looked.problems) == 1
    assert looked.content is None


def test_sound_file_has_no_problems_and_overrides_count(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('level = "${LEVEL:-debug}"\n')
    looked = look(Config, path, {}, {"server.name": "given"})
    assert looked.problems == []
    assert looked.content == Config(level="debug", server=Server(name="given"))


def test_variable_stands_for_a_number_in_tables_and_in_lists_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[server]\nname = "own"\nslots = "${A}"\n[[servers]]\nname = "b"\nslots = "${B:-4}"\n'
    )
    looked = look(Config, path, {"A": "3"})
    assert looked.problems == []
    assert looked.content == Config(
        server=Server(name="own", slots=3), servers=(Server(name="b", slots=4),)
    )
    (wrong,) = look(Config, path, {"A": "three"}).problems
    assert "server.slots" in str(wrong)
