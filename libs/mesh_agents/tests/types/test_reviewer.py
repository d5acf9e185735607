"""Linters over real files, in one form."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh_agents.contract import StepFailedError
from mesh_agents.types import linters
from mesh_agents.types.findings import classes, electorate, rules_of

BAD = """\
import os
from a import (b,
  c)


def f(x=[]):
    y = 1
    try:
        eval("1")
    except:
        pass
    return {"k": 1, "k": undefined}
"""


def _keys(found: dict[str, Any], tool: str) -> set[tuple[int, str]]:
    return {(one["line"], one["class"]) for one in found["findings"] if one["tool"] == tool}


@pytest.mark.slow
def test_reviewer_finds_the_same_in_the_same_words_with_three_tools(root: Path, do: Any) -> None:
    (root / "bad.py").write_text(BAD)
    found = do("reviewer", {})
    assert set(found["tools"]) == {"ruff", "pyflakes", "pylint"}
    common = {
        (1, "unused-import"), (2, "unused-import"), (7, "unused-variable"),
        (12, "undefined-name"), (12, "duplicate-key"),
    }  # fmt: skip
    assert common <= _keys(found, "ruff")
    assert common <= _keys(found, "pyflakes")
    assert common <= _keys(found, "pylint")
    assert (10, "bare-except") in _keys(found, "ruff") & _keys(found, "pylint")
    one = next(entry for entry in found["findings"] if entry["rule"] == "F401")
    assert one == {
        "file": "bad.py", "line": 1, "class": "unused-import", "rule": "F401", "tool": "ruff",
        "message": "`os` imported but unused", "at": 1,
    }  # fmt: skip


def test_reviewer_runs_the_tools_of_its_agent_and_says_what_they_know(root: Path, do: Any) -> None:
    (root / "bad.py").write_text(BAD)
    by_config = do("reviewer", {}, config={"tools": ["pyflakes"]})
    by_capability = do("reviewer", {}, config={"capabilities": ["pyflakes", "other"]})
    assert set(by_config["tools"]) == set(by_capability["tools"]) == {"pyflakes"}
    assert "bare-except" not in by_config["knows"]
    assert "unused-import" in by_config["knows"]


def test_reviewer_fails_by_name_when_a_tool_is_not_installed(
    root: Path, do: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "bad.py").write_text(BAD)

    def absent(name: str) -> str:
        raise linters.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(linters.importlib.metadata, "version", absent)
    with pytest.raises(StepFailedError, match="pylint is not installed") as failed:
        do("reviewer", {"tools": ["pylint"]})
    assert failed.value.type == "not_installed"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tools": ["flake9"]}, "unknown tool flake9; there are ruff, pyflakes, pylint"),
        ({"files": ["../x.py"]}, "not inside the given roots"),
        ({"files": ["nowhere.py"]}, "not inside the given roots"),
        ({"root": "bad.py"}, "not a folder"),
        ({"fils": []}, "unknown field `fils`"),
        ({"comments": "maybe"}, "honour or ignore"),
        ("bad.py", "Expected `object`"),
    ],
)
def test_reviewer_refuses_what_it_cannot_mean(
    root: Path, do: Any, given: Any, message: str
) -> None:
    (root / "bad.py").write_text(BAD)
    with pytest.raises(StepFailedError, match=message) as failed:
        do("reviewer", given)
    assert failed.value.type == "input"
    assert not failed.value.retryable


@pytest.mark.slow
def test_reviewer_runs_no_code_and_reads_no_configuration_of_the_tree(root: Path, do: Any) -> None:
    mark = root.parent / "ran"
    evil = f"open({str(mark)!r}, 'w').write('x')\n"
    (root / "bad.py").write_text("import os\nimport json\n")
    for name in ("json", "tomlkit", "getpass", "dill", "colorama", "pylint", "conftest"):
        (root / f"{name}.py").write_text(evil)
    (root / "pylintrc").write_text(f"[MAIN]\ninit-hook={evil}\n")
    (root / "pyproject.toml").write_text(
        '[tool.ruff]\nexclude = ["*.py"]\n[tool.pylint.main]\nload-plugins = ["dill"]\n'
    )
    found = do("reviewer", {"files": ["bad.py"]})
    assert not mark.exists()
    for tool in ("ruff", "pyflakes", "pylint"):
        assert _keys(found, tool) == {(1, "unused-import"), (2, "unused-import")}, tool


@pytest.mark.slow
def test_comment_for_one_tool_silences_its_class_for_all(root: Path, do: Any) -> None:
    (root / "a.py").write_text(
        "import os  # noqa: F401\nimport re  # pylint: disable=unused-import\n"
    )
    (root / "b.py").write_text("import os  # noqa: E501\nimport re  # noqa\n")
    found = do("reviewer", {})
    assert {(one["file"], one["line"]) for one in found["findings"]} == {("b.py", 1)}
    assert len(found["findings"]) == 3
    assert found["silenced"] > 0
    loud = do("reviewer", {"comments": "ignore", "tools": ["ruff", "pyflakes"]})
    assert len(loud["findings"]) == 8


@pytest.mark.slow
def test_reviewer_reports_a_file_that_is_no_python_once_per_tool(root: Path, do: Any) -> None:
    (root / "broken.py").write_text("def f(:\n")
    (root / "deep.py").write_text("x = " + "(" * 500 + ")" * 500 + "\n")
    (root / "binary.py").write_bytes(b"x = 1\0")
    found = do("reviewer", {"files": ["broken.py", "binary.py"]})
    assert {one["tool"] for one in found["findings"] if one["class"] == "syntax-error"} == {
        "ruff", "pyflakes", "pylint",
    }  # fmt: skip
    assert found["skipped"] == {"binary.py": "binary"}
    assert found["files"] == 1
    assert do("reviewer", {"files": ["deep.py"], "tools": ["pyflakes"]})["findings"]


def test_reviewer_counts_what_has_no_class_and_shows_it_when_asked(root: Path, do: Any) -> None:
    (root / "a.py").write_text("x = 1  \nimport os\n" + "y = " + "1" * 120 + "\n")
    asked = do("reviewer", {"tools": ["ruff"], "unmapped": True})
    assert "ruff/W291" in {one["class"] for one in asked["findings"]}
    assert asked["unmapped"]["ruff/W291"] == 1
    plain = do("reviewer", {"tools": ["ruff"]})
    assert {one["class"] for one in plain["findings"]} == {"unused-import"}


def test_reviewer_ends_in_time(root: Path, do: Any) -> None:
    (root / "a.py").write_text("import os\n")
    with pytest.raises(StepFailedError, match="did not end in time"):
        do("reviewer", {"tools": ["pylint"]}, timeout_s=0.05)


@pytest.mark.parametrize("tool", ["ruff", "pylint"])
def test_every_rule_with_a_class_exists_in_its_tool(tool: str) -> None:
    if tool == "ruff":
        argv = [linters.ruff_program(), "rule", "--all", "--output-format", "json"]
    else:
        argv = [sys.executable, "-I", "-m", "pylint", "--list-msgs"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    for rule in rules_of(tool):
        assert rule == "invalid-syntax" or f'"{rule}"' in listed or f":{rule} (" in listed, rule


def test_every_rule_of_pyflakes_with_a_class_is_a_message_of_it() -> None:
    from pyflakes import messages

    for rule in rules_of("pyflakes"):
        assert rule == "SyntaxError" or hasattr(messages, rule), rule


def test_electorate_names_for_each_class_the_tools_that_know_it() -> None:
    voters = electorate(["ruff", "pyflakes", "bandit"])
    assert voters["unused-import"] == ["ruff", "pyflakes"]
    assert voters["shell"] == ["ruff", "bandit"]
    assert "secret" not in voters
    assert set(classes("pyflakes").values()) <= set(voters)
