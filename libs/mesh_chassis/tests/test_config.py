"""Configuration errors name file, key and remedy; sources override each other in order."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from mesh_chassis.config import ConfigError, LogConfig, OpsConfig, ServiceSection, load, read_secret


class Mode(Enum):
    FAST = "fast"
    SAFE = "safe"


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    slots: Annotated[int, Meta(ge=1, le=100)] = 8
    timeout_s: float = 30.0
    mode: Mode = Mode.SAFE
    kind: Literal["a", "b"] = "a"
    on: bool = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    service: ServiceSection
    log: LogConfig = LogConfig()
    ops: OpsConfig = OpsConfig()
    limits: Limits = Limits()
    urls: tuple[str, ...] = ()
    extra: Limits | None = None
    mcp_servers: tuple[Upstream, ...] = ()
    by_name: dict[str, Limits] = {}


ENV = {"MESH_SERVICE_INSTANCE": "x-1"}


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "service.toml"
        path.write_text(text)
        return path

    return write


def fail(path: Path | None, env=ENV, **kwargs) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(Settings, path, env, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value


def test_load_uses_defaults_when_there_is_no_file() -> None:
    settings = load(Settings, None, ENV)
    assert settings.service.instance == "x-1"
    assert settings.ops == OpsConfig(host="127.0.0.1", port=0)
    assert settings.limits.slots == 8


def test_load_reads_every_shape_from_toml(write) -> None:
    path = write(
        """
        urls = ["a", "b"]
        [service]
        instance = "gateway-1"
        [limits]
        slots = 5
        timeout_s = 3
        mode = "fast"
        [[mcp_servers]]
        name = "time"
        args = ["-m", "x"]
        env = { A = "1" }
        [by_name.first]
        on = true
        """
    )
    settings = load(Settings, path, {})
    assert settings.limits == Limits(slots=5, timeout_s=3.0, mode=Mode.FAST)
    assert settings.mcp_servers == (Upstream(name="time", args=("-m", "x"), env={"A": "1"}),)
    assert settings.by_name["first"].on
    assert settings.urls == ("a", "b")


def test_load_expands_variables_everywhere_in_the_file(write) -> None:
    path = write(
        """
        urls = ["nats://${HOST}:${PORT:-4222}", "$${HOST}", "${EMPTY:-fallback}", "${EMPTY}"]
        [[mcp_servers]]
        name = "${HOST}"
        env = { TOKEN = "${A}-${A}" }
        """
    )
    settings = load(Settings, path, {**ENV, "HOST": "h", "A": "1", "EMPTY": ""})
    assert settings.urls == ("nats://h:4222", "${HOST}", "fallback", "")
    assert settings.mcp_servers[0].env == {"TOKEN": "1-1"}


def test_load_takes_a_variable_for_the_number_or_truth_value_that_it_spells(write) -> None:
    path = write(
        """
        [limits]
        slots = "${SLOTS}"
        timeout_s = "${TIMEOUT:-2.5}"
        on = "${ON}"
        mode = "${MODE:-fast}"
        """
    )
    env = {**ENV, "SLOTS": "7", "ON": "true"}
    assert load(Settings, path, env).limits == Limits(
        slots=7, timeout_s=2.5, on=True, mode=Mode.FAST
    )
    error = fail(path, env={**env, "SLOTS": "seven"})
    assert "limits.slots" in str(error)
    error = fail(path, env={**env, "SLOTS": "101"})  # its bounds hold all the same
    assert "100" in str(error)
    assert "limits.slots" in str(fail(write('[limits]\nslots = "7"')))  # a text is no number


def test_load_does_not_expand_what_a_variable_contains(write) -> None:
    settings = load(Settings, write('urls = ["${A}"]'), {**ENV, "A": "${B}"})
    assert settings.urls == ("${B}",)


def test_load_names_file_key_and_variable_when_a_variable_is_missing(write) -> None:
    path = write('[[mcp_servers]]\nname = "a"\nargs = ["x", "${NOT_SET}"]')
    error = fail(path)
    assert error.source == str(path)
    assert error.key == "mcp_servers[0].args[1]"
    assert "NOT_SET" in error.reason


@pytest.mark.parametrize("text", ["${}", "${a b}", "${1A}", "${A-b}"])
def test_load_refuses_a_malformed_reference(write, text: str) -> None:
    assert "is not ${NAME}" in fail(write(f'urls = ["{text}"]')).reason


@pytest.mark.parametrize(
    ("toml", "key", "hint"),
    [
        ("[limits]\nslot = 1", "limits.slot", "did you mean slots?"),
        ("[limit]\nslots = 1", "limit", "did you mean limits?"),
        ('[[mcp_servers]]\nname = "a"\narg = []', "mcp_servers[0].arg", "did you mean args?"),
        ("[by_name.x]\nslotz = 1", "by_name.x.slotz", "did you mean slots?"),
        ("[extra]\nzzz = 1", "extra.zzz", "known here: slots, timeout_s, mode, kind, on"),
    ],
)
def test_load_suggests_the_closest_key_when_one_is_unknown(write, toml, key, hint) -> None:
    error = fail(write(toml))
    assert error.key == key
    assert error.reason.startswith("unknown key")
    assert hint in error.reason


@pytest.mark.parametrize(
    ("toml", "key", "part"),
    [
        ('[limits]\nslots = "5"', "limits.slots", "Expected `int`, got `str`"),
        ("[limits]\nslots = 0", "limits.slots", ">= 1"),
        ("[limits]\nslots = 101", "limits.slots", "<= 100"),
        ('[limits]\nmode = "quick"', "limits.mode", "allowed: fast, safe"),
        ('[limits]\nkind = "c"', "limits.kind", "allowed: a, b"),
        ("[limits]\non = 1", "limits.on", "Expected `bool`"),
        ("[[mcp_servers]]\nargs = []", "mcp_servers[0].name", "required"),
        ("limits = 3", "limits", "Expected `object`"),
        ('[log]\nlevel = "loud"', "log.level", "matching regex"),
        ("[ops]\nport = 70000", "ops.port", "<= 65535"),
        ("urls = [1]", "urls[0]", "Expected `str`"),
    ],
)
def test_load_names_key_and_rule_when_a_value_is_wrong(write, toml, key, part) -> None:
    path = write(toml)
    error = fail(path)
    assert error.source == str(path)
    assert error.key == key
    assert part in error.reason


def test_load_says_how_to_set_a_required_key_that_is_missing(write) -> None:
    error = fail(write("[service]"), env={})
    assert error.key == "service.instance"
    assert "MESH_SERVICE_INSTANCE" in error.reason


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"a = ", "not valid TOML"), (b"\xff", "UTF-8"), (b"#" * (1024 * 1024 + 1), "at most")],
)
def test_load_names_the_file_when_it_cannot_be_read(tmp_path: Path, content, part) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    error = fail(path)
    assert error.source == str(path)
    assert part in error.reason


def test_load_names_the_file_when_it_does_not_exist(tmp_path: Path) -> None:
    assert "No such file" in fail(tmp_path / "none.toml").reason


def test_environment_overrides_the_file_with_the_type_of_the_field(write) -> None:
    path = write("[limits]\nslots = 5\nmode = 'safe'")
    env = {
        **ENV,
        "MESH_LIMITS_SLOTS": "7",
        "MESH_LIMITS_TIMEOUT_S": "1.5",
        "MESH_LIMITS_MODE": "fast",
        "MESH_LIMITS_ON": "true",
        "MESH_URLS": "a, b",
        "MESH_TEST_NATS_URL": "ignored",
    }
    settings = load(Settings, path, env)
    assert settings.limits == Limits(slots=7, timeout_s=1.5, mode=Mode.FAST, on=True)
    assert settings.urls == ("a", "b")


@pytest.mark.parametrize(
    ("value", "part"), [("x", "Expected `int`"), ("0", ">= 1"), ("", "Expected `int`")]
)
def test_load_names_the_environment_variable_when_its_value_is_wrong(value, part) -> None:
    error = fail(None, env={**ENV, "MESH_LIMITS_SLOTS": value})
    assert error.source == "environment variable MESH_LIMITS_SLOTS"
    assert error.key == "limits.slots"
    assert part in error.reason


def test_load_lets_an_empty_variable_clear_a_list(write) -> None:
    assert load(Settings, write('urls = ["a"]'), {**ENV, "MESH_URLS": ""}).urls == ()


def test_overrides_win_over_everything(write) -> None:
    settings = load(
        Settings,
        write("[limits]\nslots = 5"),
        {**ENV, "MESH_LIMITS_SLOTS": "7"},
        overrides={"limits.slots": 9},
    )
    assert settings.limits.slots == 9


def test_load_suggests_the_closest_key_when_an_override_is_unknown() -> None:
    assert "did you mean limits.slots?" in fail(None, overrides={"limits.slot": 9}).reason


def test_load_marks_a_wrong_override_as_such() -> None:
    assert fail(None, overrides={"limits.slots": 0}).source == "override"


def test_read_secret_strips_white_space_and_never_shows_content(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    path.write_text(" hush\n")
    assert read_secret(str(path), key="keys.kek_file") == "hush"
    path.write_bytes(b"\xffhush")
    with pytest.raises(ConfigError) as caught:
        read_secret(str(path), key="keys.kek_file")
    assert "hush" not in str(caught.value)
    assert "keys.kek_file" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"), [(b"", "empty"), (b"x" * 70_000, "at most"), (None, "No such file")]
)
def test_read_secret_refuses_an_unusable_file(tmp_path: Path, content, part) -> None:
    path = tmp_path / "kek"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=part):
        read_secret(str(path), key="keys.kek_file")
