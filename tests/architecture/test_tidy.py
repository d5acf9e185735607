"""House rules that a machine can check: sizes, bans, one version, nothing of this machine."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE_LINES_MAX = 500
TYPES_LINES_MAX = 700
TEST_LINES_MAX = 600
FUNCTION_LINES_MAX = 60

# A line here needs its reason; the list may only shrink.
LONG_MODULES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def sources(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def tracked_files() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


SOURCE = sources("libs/*/src/**/*.py", "services/*/src/**/*.py")
TESTS = sources("libs/*/tests/**/*.py", "services/*/tests/**/*.py", "tests/**/*.py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{name_of(path)}::{node.name}", node.end_lineno - node.lineno + 1


def test_there_is_source_to_check() -> None:
    assert len(SOURCE) > 40
    assert len(TESTS) > 20


def test_modules_stay_short() -> None:
    long: list[str] = []
    for path in SOURCE:
        lines = len(path.read_text().splitlines())
        limit = TYPES_LINES_MAX if "types" in path.parts else MODULE_LINES_MAX
        if lines > limit and name_of(path) not in LONG_MODULES:
            long.append(f"{name_of(path)}: {lines} lines, {limit} allowed")
    assert not long, "\n".join(long)


def test_test_modules_stay_short() -> None:
    long = [
        f"{name_of(path)}: {lines} lines"
        for path in TESTS
        if (lines := len(path.read_text().splitlines())) > TEST_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_functions_stay_short() -> None:
    long = [
        f"{name}: {lines} lines"
        for path in SOURCE
        for name, lines in functions(path)
        if lines > FUNCTION_LINES_MAX and name not in LONG_FUNCTIONS
    ]
    assert not long, "\n".join(long)


def test_exceptions_from_the_limits_are_still_needed() -> None:
    lengths = {name: lines for path in SOURCE for name, lines in functions(path)}
    stale = [name for name in LONG_FUNCTIONS if lengths.get(name, 0) <= FUNCTION_LINES_MAX]
    stale += [
        name
        for name in LONG_MODULES
        if len((ROOT / name).read_text().splitlines()) <= MODULE_LINES_MAX
    ]
    assert not stale


def test_every_module_says_why_it_exists() -> None:
    silent = [
        name_of(path)
        for path in SOURCE
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"\bTODO\b(?!.*#\d)", "a TODO names its issue"),
        (r"^\s*(?:import json|from json)\b", "msgspec is the codec"),
        (r"\butcnow\(", "naive times"),
        (r"^\s*asyncio\.create_task\(", "every task has a parent"),
        (r"(?<!def )\bos\.environ\b", "only configuration reads the environment"),
    ],
)
def test_banned_words_stay_out_of_the_source(pattern: str, reason: str) -> None:
    allowed = {
        "libs/mesh_chassis/src/mesh_chassis/config.py",
        "libs/mesh_chassis/src/mesh_chassis/runtime.py",
        "libs/mesh_chassis/src/mesh_chassis/secret_references.py",
        "libs/mesh_chassis/src/mesh_chassis/testing",
        "libs/mesh_chassis/src/mesh_chassis/tracing.py",
        # It starts the programs of agents, with what they need of its own.
        "libs/mesh_agents/src/mesh_agents",
        "libs/mesh_cli/src/mesh_cli",
        # What a person's program finds its mesh by.
        "libs/mesh_sdk/src/mesh_sdk",
        "services/tool-runner/src/tool_runner/upstreams",
        # A plain process gets what a program needs to find its files.
        "services/vm-spawner/src/vm_spawner/drivers/process.py",
        "services/gateway/src/gateway/edges/stdio.py",
    }
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in SOURCE
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
        and not ("environ" in pattern and name_of(path).startswith(tuple(allowed)))
    ]
    assert not found, f"{reason}:\n" + "\n".join(found)


def test_one_version_everywhere() -> None:
    versions = {
        name_of(path): tomllib.loads(path.read_text())["project"]["version"]
        for path in sources("pyproject.toml", "libs/*/pyproject.toml", "services/*/pyproject.toml")
    }
    assert len(set(versions.values())) == 1, versions


def test_no_machine_path_or_registry_host_is_committed() -> None:
    # Written apart so that this file does not contain what it looks for.
    needles = ["/wo" + "rk/", "/tmp/" + "bash", "python" + "hosted.org", "registry.npm" + "js"]
    found: list[str] = []
    for name in tracked_files():
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {needle}" for needle in needles if needle in text]
    assert not found


def test_no_lock_file_of_an_installer_is_committed() -> None:
    locks = {"uv.lock", "package-lock.json", "poetry.lock", "Pipfile.lock"}
    assert not [name for name in tracked_files() if Path(name).name in locks]


def test_the_lock_names_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pins = re.findall(r"^[a-z0-9][^\s=]*==", text, flags=re.MULTILINE)
    assert len(pins) > 50
    assert text.count("--hash=sha256:") >= len(pins)


def test_every_declared_metric_is_written_somewhere() -> None:
    declared = ROOT / "libs/mesh_chassis/src/mesh_chassis/metrics.py"
    # The declaration is one mention; whoever writes a metric names it once more.
    text = "".join(path.read_text() for path in SOURCE)
    names = re.findall(r'\bname="(mesh_\w+)"', declared.read_text())
    assert len(names) > 10
    unwritten = [name for name in names if text.count(f'"{name}"') < 2]
    assert not unwritten
