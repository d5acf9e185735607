"""Fixes and formats on a copy; the diff does to the tree what the answer says."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from mesh_agents.contract import StepFailedError
from mesh_agents.types import coder

UGLY = "import os\nimport re\nx = {  'a':1 }\nprint( re.escape( 'x' ) )\nprint(undefined)\n"


@pytest.fixture
def tree(root: Path) -> Path:
    (root / "pkg").mkdir()
    (root / "pkg" / "a.py").write_text(UGLY)
    (root / "pkg" / "fine.py").write_text("x = 1\n")
    (root / "pkg" / "notes.txt").write_text("not code")
    return root


def test_coder_returns_a_diff_that_applies_and_leaves_the_files_alone(tree: Path, do: Any) -> None:
    found = do("coder", {})
    assert (tree / "pkg" / "a.py").read_text() == UGLY
    assert [one["file"] for one in found["files"]] == ["pkg/a.py"]
    assert found["looked_at"] == 2
    assert [(one["line"], one["rule"]) for one in found["left"]] == [(5, "F821")]
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    subprocess.run(["git", "apply", "-"], input=found["diff"], text=True, cwd=tree, check=True)
    assert (tree / "pkg" / "a.py").read_text() == (
        'import re\n\nx = {"a": 1}\nprint(re.escape("x"))\nprint(undefined)\n'
    )
    again = do("coder", {})
    assert (again["diff"], again["files"]) == ("", [])


def test_coder_does_what_it_is_asked_and_no_more(tree: Path, do: Any) -> None:
    formatted = do("coder", {"files": ["pkg/a.py"], "do": ["format"]})
    assert "-import os" not in formatted["diff"]
    assert "+x = {" in formatted["diff"]
    fixed = do("coder", {"files": ["pkg/a.py"], "do": ["fix"], "select": ["F401"]})
    assert [line for line in fixed["diff"].splitlines()[2:] if line[0] in "+-"] == ["-import os"]
    assert fixed["left"] == []


def test_coder_reads_a_configuration_only_where_it_is_named(tree: Path, do: Any) -> None:
    (tree / "ruff.toml").write_text("line-length = 20\n[format]\nquote-style = 'single'\n")
    plain = do("coder", {"root": "pkg", "do": ["format"]})
    assert "'a'" not in next(line for line in plain["diff"].splitlines() if line.startswith("+x"))
    own = do("coder", {"root": "pkg", "do": ["format"], "config": "ruff.toml"})
    assert "+x = {'a': 1}" in own["diff"]
    assert own["files"][0]["file"] == "a.py"


def test_line_ends_of_windows_and_a_missing_last_one_survive(root: Path, do: Any) -> None:
    (root / "dos.py").write_bytes(b"import os\r\nx = 1\r\n")
    (root / "cut.py").write_bytes(b"import os\nx = 1")
    before = {name: (root / name).read_bytes() for name in ("dos.py", "cut.py")}
    found = do("coder", {"do": ["fix"]})
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"],
        input=found["diff"].encode(), cwd=root, check=True,
    )  # fmt: skip
    assert (root / "dos.py").read_bytes() == before["dos.py"].removeprefix(b"import os\r\n")
    assert (root / "cut.py").read_bytes() == b"x = 1"


def test_file_that_does_not_parse_is_left_and_named(root: Path, do: Any) -> None:
    (root / "broken.py").write_text("def f(:\n")
    (root / "ugly.py").write_text("x=1\n")
    (root / "latin.py").write_bytes(b"# \xe9\nx=1\n")
    found = do("coder", {})
    assert [one["file"] for one in found["files"]] == ["ugly.py"]
    assert {one["rule"] for one in found["left"] if one["file"] == "broken.py"} == {
        "invalid-syntax"
    }
    assert found["skipped"] == {"latin.py": "not UTF-8"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"files": ["../x.py"]}, "not inside"),
        ({"config": "../ruff.toml"}, "not inside"),
        ({"do": []}, "fix, format or both"),
        ({"do": ["delete"]}, "Invalid enum"),
        ({"select": ["F401 --fix-only"]}, "names of ruff's rules"),
    ],
)
def test_coder_refuses_with_a_reason(tree: Path, do: Any, given: dict, message: str) -> None:
    with pytest.raises(StepFailedError, match=message) as failed:
        do("coder", given)
    assert failed.value.type == "input"


def test_unknown_rule_and_a_diff_without_end_fail_the_step(
    tree: Path, do: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StepFailedError, match=r"(?s)ruff ended with 2.*ZZZ9"):
        do("coder", {"select": ["ZZZ9"]})
    monkeypatch.setattr(coder, "DIFF_CHARS_MAX", 10)
    with pytest.raises(StepFailedError, match="more than 10 characters") as failed:
        do("coder", {})
    assert failed.value.type == "limit"
