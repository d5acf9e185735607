"""The examples, run as a newcomer runs them: one command each, readable output, nothing left."""

import os
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.e2e import processes
from tests.e2e.running_mesh import PLAIN_ENVIRONMENT

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RUN = EXAMPLES / "run.py"
RUN_S = 110
# What varies from run to run is left out: times, random order.
LINES = {
    "orchestrator": [
        "task: What will the weather be tomorrow?",
        "  3/3 calling weather:forecast",
        "  3/3 calling currency:convert",
        "  => {'agent': 'wordcount', 'tool': 'count', 'answer': {'words': 4, 'characters': 19}}",
        "  => no agent fits 'book a flight to the moon': say it in other words",
        "ok: three tasks done by three agents, the fourth refused with a reason",
    ],
    "log-analysis": [
        "uploaded logs/shop-1.log: 192 KiB, 5000 lines",
        "live: reports:ready from loganalyst: {'report': 'logs/shop-1.log.report.json', 'errors': 47}",  # noqa: E501
        "ok: both reports were announced live and read back",
    ],
    "three-services": [
        "domains: ['inventory']",
        "task 2 'take 20 bolts': done: {'item': 'bolts', 'stock': 100}",
        "task 3 'delete everything': refused: denied by the verifier: nobody may delete anything",
        "direct: denied by the verifier: nobody may drop anything",
        "ok: two done, two refused, one without an agent; the verifier saw every request",
    ],
    "openapi": [
        "tools: addBook, getBook, listBooks",
        "book 1: {'id': 1, 'title': 'Moby-Dick', 'shelf': 'novels'}",
        'book ../admin: Invalid arguments for getBook: id: "../admin" is not of type "integer"',
        "ok: three operations called as tools, two requests refused",
    ],
    "code-review-swarm": [
        "  13 findings: 13 accepted (13 by all that know their class), 0 rejected",
        "ok: every finding was voted on by the tools that know its class",
    ],
    "distributed-tests": [
        "without durations: 18 passed, 1 failed, 1 flaky, 1 skipped",
        "agents left: 3; shards begun again by another: 1",
        "with durations, one agent killed: 18 passed, 1 failed, 1 flaky, 1 skipped",
        "  flaky: tests/test_cache.py::test_cache_answers (2 runs): AssertionError: the cache did not answer in time",  # noqa: E501
        "junit.xml: 21 tests, 1 failure",
        "ok: every test is in the report once, although an agent died with its work",
    ],
    "log-mapreduce": [
        "uploaded 4 logs: 60000 lines, 2481 KiB",
        "/cart: 19992 rows, 209 errors, mean 22.7 ms, quantiles {'0.5': 20.0, '0.95': 45.8, '0.99': 65.0}, off by 0.45% at most",  # noqa: E501
        "ok: counts, sums, means and extremes are equal, quantiles as exact as stated",
    ],
    "behind-nat": [
        "read: {'celsius': 19.0}",
        "set: {'celsius': 21.5} ['asking the boiler']",
        "said at home: 12 forbidden subjects, 0 arrived",
        "heard at home: 0 of them; its own calls: 1",
        "served at home: 0 of 50 calls of another server",
        "key of the leaf as a client: refused (Error)",
        "ok: called through the hub; nothing else of the hub can be called, served or heard",
    ],
}


@pytest.mark.slow
@pytest.mark.timeout(RUN_S + 10)
@pytest.mark.parametrize("name", sorted(LINES))
def test_example_shows_what_its_page_says_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    mark = f"example-{secrets.token_hex(8)}"
    folders = set(Path(tempfile.gettempdir()).glob("mesh-example-*"))
    done = subprocess.run(
        [sys.executable, str(RUN), name],
        cwd=tmp_path,
        env={**PLAIN_ENVIRONMENT, "EXAMPLE_RUN": mark, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    lines = done.stdout.splitlines()
    for line in LINES[name]:
        assert line in lines, f"missing: {line}\n{said}"
    assert lines[-1] == "[run] done"
    assert not processes.marked(mark)
    assert not list(tmp_path.glob("mesh-example-*"))
    assert set(Path(tempfile.gettempdir()).glob("mesh-example-*")) <= folders


@pytest.mark.parametrize("name", sorted(LINES))
def test_page_of_an_example_names_its_command_and_shows_its_output(name: str) -> None:
    page = (EXAMPLES / name / "README.md").read_text()
    assert f"make example NAME={name}" in page
    shown = re.findall(r"```\n\$ make example.*?\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 1
    for line in LINES[name]:
        assert line in shown[0].splitlines(), line


def test_every_example_is_tested_and_listed() -> None:
    found = {path.parent.name for path in EXAMPLES.glob("*/demo.py")}
    assert found == set(LINES)
    listed = subprocess.run(
        [sys.executable, str(RUN)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert listed.stdout.split("make example NAME=")[1:] == [f"{name}\n" for name in sorted(found)]
    index = (EXAMPLES / "README.md").read_text()
    assert all(f"({name}/README.md)" in index for name in found)
