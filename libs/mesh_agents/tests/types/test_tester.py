"""pytest over real trees: shards, flaky tests, JUnit."""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_agents.contract import StepFailedError
from mesh_agents.types.junit import parse
from mesh_agents.types.shards import balanced

FLAKY = """
from pathlib import Path
import pytest

def test_good(): pass

def test_flaky():
    mark = Path(__file__).with_name("mark")
    if not mark.exists():
        mark.write_text("x")
        raise AssertionError("first time: \\x01 <odd> & text")

class TestBad:
    @pytest.mark.parametrize("n", [1, 2])
    def test_bad(self, n): assert n == 2, "wrong"

@pytest.mark.skip(reason="not now")
def test_skipped(): pass

@pytest.fixture
def broken(): raise RuntimeError("set-up")
def test_error(broken): pass
"""

# Loading what is installed here takes longer than these tests.
INI = "[pytest]\naddopts = --disable-plugin-autoload\n"


@pytest.fixture
def tree(root: Path) -> Path:
    (root / "proj").mkdir()
    (root / "proj" / "test_a.py").write_text(FLAKY)
    (root / "proj" / "sub").mkdir()
    (root / "proj" / "sub" / "test_b.py").write_text("def test_one(): pass\n")
    (root / "proj" / "pytest.ini").write_text(INI)
    return root / "proj"


def _outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["outcome"] for one in report["tests"]}


@pytest.mark.slow
def test_tester_tells_flaky_from_failed_by_running_it_once_more(tree: Path, do: Any) -> None:
    report = do("tester", {"root": "proj", "tests": ["test_a.py"]})
    assert _outcomes(report) == {
        "test_a.py::TestBad::test_bad[1]": "failed",
        "test_a.py::TestBad::test_bad[2]": "passed",
        "test_a.py::test_error": "error",
        "test_a.py::test_flaky": "flaky",
        "test_a.py::test_good": "passed",
        "test_a.py::test_skipped": "skipped",
    }
    assert (report["passed"], report["failed"], report["flaky"], report["skipped"]) == (2, 2, 1, 1)
    flaky = next(one for one in report["tests"] if one["outcome"] == "flaky")
    assert flaky["attempts"] == 2
    assert "first time" in flaky["message"]
    assert [one["tests"] for one in report["failures"]] == [
        ["test_a.py::TestBad::test_bad[1]"], ["test_a.py::test_error"],
    ]  # fmt: skip
    assert not list(tree.rglob(".pytest_cache"))
    assert not list(tree.rglob("*.xml"))


@pytest.mark.slow
def test_shards_of_a_collection_are_inputs_of_runs_and_a_merge_is_one_report(
    tree: Path, do: Any
) -> None:
    collected = do(
        "tester", {"do": "collect", "root": "proj", "shards": 3, "retry": False,
                   "durations": {"test_a.py::test_good": 9.0, "test_a.py::test_flaky": 0.1,
                                 "test_a.py::test_skipped": 0.1}},
    )  # fmt: skip
    assert len(collected["tests"]) == 7
    shards = collected["shards"]
    assert [test for shard in shards if len(shard["tests"]) == 1 for test in shard["tests"]] == [
        "test_a.py::test_good"
    ]
    runs = [do("tester", shard, agent=f"agent_{i}") for i, shard in enumerate(shards)]
    first = do("tester", {"do": "merge", "runs": runs}, kind="merge")
    assert (first["failed"], first["flaky"], first["passed"]) == (3, 0, 3)
    # As the template does it: what failed runs once more, elsewhere, beside the first report.
    again = [do("tester", failure, agent="other") for failure in first["failures"]]
    assert {one["agent"] for one in first["failures"]} <= {"agent_0", "agent_1", "agent_2"}
    report = do("tester", {"do": "merge", "runs": [first, *again]}, kind="merge")
    assert (report["failed"], report["flaky"], report["passed"]) == (2, 1, 3)
    suite = ET.fromstring(report["junit"]).find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "7", "failures": "1", "errors": "1", "skipped": "1",
    }  # fmt: skip
    assert len(suite.findall("testcase/flakyFailure")) == 1
    assert set(report["durations"]) == {
        one["id"] for one in report["tests"] if one["outcome"] in ("passed", "flaky")
    }
    assert {case.id for case in parse(report["junit"].encode())} == set(_outcomes(report))


def test_tester_understands_a_tree_whose_options_name_files_only(tree: Path, do: Any) -> None:
    (tree / "pytest.ini").write_text("[pytest]\naddopts = -q --disable-plugin-autoload\n")
    collected = do("tester", {"do": "collect", "root": "proj", "shards": 2})
    assert sorted(collected["tests"]) == ["sub/test_b.py", "test_a.py"]
    assert [shard["tests"] for shard in collected["shards"]] == [["test_a.py"], ["sub/test_b.py"]]


def test_tester_chooses_by_keyword(tree: Path, do: Any) -> None:
    report = do("tester", {"root": "proj", "tests": ["."], "keyword": "good or one"})
    assert report["passed"] == len(report["tests"]) == 2


def test_many_tests_go_by_file(tree: Path, do: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_agents.types.tester.LINE_CHARS", 5)
    report = do("tester", {"root": "proj", "tests": ["test_a.py::test_good", "sub/test_b.py"]})
    assert report["passed"] == 2


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        ({"tests": ["nowhere.py"]}, "input", "not inside"),
        ({"tests": ["../x.py::test"]}, "input", "not inside"),
        ({"tests": ["-p", "evil"]}, "input", "not inside"),
        ({"tests": []}, "input", "at least one"),
        ({"do": "merge"}, "input", "at least one output"),
        ({"do": "collect", "shards": 0}, "input", "shards"),
        ({"do": "collect", "durations": {"a": -1}}, "input", "seconds"),
        ({"do": "nothing"}, "input", "Invalid enum"),
        ({"tests": ["test_a.py::nowhere"]}, "exit", "pytest ended with 4"),
    ],
)
def test_tester_refuses_with_a_reason(
    tree: Path, do: Any, wanted: dict, kind: str, message: str
) -> None:
    with pytest.raises(StepFailedError, match=message) as failed:
        do("tester", {"root": "proj", **wanted})
    assert failed.value.type == kind
    assert not failed.value.retryable


@pytest.mark.slow
def test_module_that_does_not_import_is_an_error_and_no_collection(tree: Path, do: Any) -> None:
    (tree / "sub" / "test_c.py").write_text("import nowhere\n")
    with pytest.raises(StepFailedError, match=r"(?s)cannot be collected.*nowhere"):
        do("tester", {"do": "collect", "root": "proj"})
    report = do("tester", {"root": "proj", "tests": ["sub"]})
    assert _outcomes(report)["sub/test_c.py"] == "error"


def test_tests_that_end_the_process_are_a_crash_and_no_success(tree: Path, do: Any) -> None:
    (tree / "test_end.py").write_text("import os\ndef test_a(): os._exit(0)\n")
    with pytest.raises(StepFailedError, match="wrote no report") as failed:
        do("tester", {"root": "proj", "tests": ["test_end.py"]})
    assert failed.value.type == "crash"


@pytest.mark.slow
def test_test_that_hangs_is_ended_in_time(tree: Path, do: Any) -> None:
    (tree / "test_hang.py").write_text("import time\ndef test_a(): time.sleep(60)\n")
    with pytest.raises(StepFailedError, match="did not end in time"):
        do("tester", {"root": "proj", "tests": ["test_hang.py"]}, timeout_s=3)


def test_tests_see_nothing_of_the_hosts_environment(
    tree: Path, do: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_SEED", "secret")
    (tree / "test_env.py").write_text(
        "import os\ndef test_a(): assert 'NATS_SEED' not in os.environ\n"
    )
    assert do("tester", {"root": "proj", "tests": ["test_env.py"]})["passed"] == 1


def test_interpreter_is_that_of_the_tree_or_none(tree: Path, do: Any) -> None:
    given = {"root": "proj", "tests": ["sub"]}
    for python in ("python3", sys.executable, os.devnull, 3):
        with pytest.raises(StepFailedError) as failed:
            do("tester", given, config={"python": python})
        assert failed.value.type == "input"
    (tree / "venv").mkdir()
    own = tree / "venv" / "python"
    own.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    own.chmod(0o755)
    assert do("tester", given, config={"python": str(own)})["passed"] == 1


def test_junit_with_a_dtd_is_refused() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b "cc">]><testsuites>&b;</testsuites>'
    with pytest.raises(StepFailedError, match="DTD"):
        parse(bomb)
    with pytest.raises(StepFailedError, match="broken"):
        parse(b"<testsuites>")


@given(
    durations=st.dictionaries(st.text(min_size=1, max_size=4), st.floats(0, 100), max_size=30),
    more=st.lists(st.text(min_size=5, max_size=6), max_size=10),
    shards=st.integers(1, 12),
)
def test_shards_hold_every_test_once_and_differ_by_no_more_than_one_test(
    durations: dict[str, float], more: list[str], shards: int
) -> None:
    tests = list(dict.fromkeys([*durations, *more]))
    if not tests:
        return
    random.Random(1).shuffle(tests)
    found = balanced(tests, durations, shards)
    assert sorted(test for some, _ in found for test in some) == sorted(tests)
    assert all(some for some, _ in found)
    assert len(found) == min(shards, len(tests))
    assert json.dumps(found) == json.dumps(balanced(tests, durations, shards))
    longest = max([*durations.values(), 1.0])
    loads = [load for _, load in found]
    assert max(loads) - min(loads) <= longest + 1e-3


def test_suite_that_fails_as_a_whole_says_less_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_agents.types.junit.WHOLE_MAX", 2)
    failure = f"<failure message=''>{'x' * 1_000}</failure>"
    rows = "".join(
        f"<testcase classname='test_a' file='test_a.py' name='t{n}' time='0'>{failure}</testcase>"
        for n in range(4)
    )
    cases = parse(f"<testsuites><testsuite>{rows}</testsuite></testsuites>".encode())
    assert [len(case.message) for case in cases] == [1_000, 1_000, 200, 200]
