"""The official conformance suite as a function: run it against a URL, get what it checked.

Nothing is believed but ``checks.json``: the exit code counts required scenarios only, and prints
no warnings. A scenario the suite did not write a file for counts as failed.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

__all__ = [
    "REVISIONS",
    "SKILLS",
    "TASKS",
    "Check",
    "Report",
    "client_scenarios",
    "installed",
    "missing",
    "required",
    "run_client",
    "run_server",
    "version",
]

FOLDER = Path(__file__).parent
INSTALL = FOLDER / "install"
HOME = FOLDER.parents[1] / "build" / "conformance"
NODE = HOME / "node_modules" / "node" / "bin" / "node"
PACKAGE = HOME / "node_modules" / "@modelcontextprotocol" / "conformance"

REVISIONS = ("2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26")
"""Wires the suite knows; 2024-11-05 has no scenarios."""
FROZEN = ("2026-07-28", "2025-11-25")
"""Those with a frozen list of requirements."""
TASKS = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
)
"""Scenarios of the tasks extension that can run; ``tasks-status-notifications`` always skips."""
SKILLS = (
    "sep-2640-skills-enumeration",
    "sep-2640-skills-manifest",
    "sep-2640-skills-directory",
)
"""Scenarios of the skills extension."""
_RUN_S = 180
_BAD = frozenset(("FAILURE", "WARNING"))
_FOLDER_NAME = re.compile(r"(?:server-)?(?P<scenario>.+?)-\d{4}-\d\d-\d\dT[\d-]+Z")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check of one scenario.

    Attributes:
        status: SUCCESS, FAILURE, WARNING, SKIPPED or INFO.
        said: what the suite says of a check that did not succeed.
        evidence: the suite's details, as JSON text.
    """

    scenario: str
    name: str
    status: str
    said: str = ""
    evidence: str = ""

    @property
    def bad(self) -> bool:
        """A warning is a SHOULD that was not kept; here it counts."""
        return self.status in _BAD

    @property
    def key(self) -> str:
        """As the list of expected failures writes it."""
        return f"{self.scenario}:{self.name}"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one run found: ``checks`` of every scenario that ran; ``output`` of the suite."""

    checks: tuple[Check, ...]
    output: str = ""

    @property
    def scenarios(self) -> frozenset[str]:
        """Scenarios that left results."""
        return frozenset(check.scenario for check in self.checks)

    def passed(self, scenario: str) -> bool:
        """Whether a scenario ran, found something to check, and nothing of it went wrong."""
        mine = [check for check in self.checks if check.scenario == scenario]
        ran = any(check.status == "SUCCESS" for check in mine)
        return ran and not any(check.bad for check in mine)

    def bad(self, scenarios: frozenset[str] | None = None) -> list[Check]:
        """Checks that went wrong, of some scenarios or of all."""
        return [
            check
            for check in self.checks
            if check.bad and (scenarios is None or check.scenario in scenarios)
        ]

    def explain(self, checks: list[Check]) -> str:
        """Text for a failed assertion."""
        return "\n".join(
            f"{check.key} [{check.status}] {check.said}\n    {check.evidence[:600]}"
            for check in checks
        )


def missing() -> str:
    """Why the suite cannot run here, after an attempt to install it; "" = it can."""
    if shutil.which("npm") is None and not installed():
        return "npm is missing: the conformance suite is installed with it"
    done = subprocess.run(
        [str(INSTALL)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "npm_config_fetch_retries": "1"},
        check=False,
    )
    if done.returncode != 0:
        return f"the conformance suite cannot be installed: {done.stderr.strip()[-300:]}"
    return ""


def installed() -> bool:
    """Whether the suite is there already."""
    return any(HOME.glob(".installed-*"))


def version() -> str:
    """Version of the suite that is installed."""
    return str(json.loads((PACKAGE / "package.json").read_text())["version"])


def required(revision: str, side: str = "server") -> tuple[str, ...]:
    """Scenarios that a revision requires of a ``server`` or ``client``, from the frozen list."""
    return _section((PACKAGE / "requirements" / f"{revision}.yaml").read_text(), side)


def _section(text: str, side: str) -> tuple[str, ...]:
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        if re.match(r"\S", line) and not line.startswith("#"):
            inside = line.startswith(f"{side}:")
        elif inside and (entry := re.match(r"\s+-\s+(\S+)", line)):
            found.append(entry.group(1))
    return tuple(found)


def client_scenarios(revision: str) -> tuple[str, ...]:
    """Scenarios of the client leg."""
    return required(revision, "client")


def client_extensions(revision: str) -> tuple[str, ...]:
    """Scenarios of the client leg that test extensions, which no revision requires."""
    text = (PACKAGE / "requirements" / f"{revision}.yaml").read_text()
    entries = re.findall(r"- scenario: (\S+)\s+leg: (\S+)\s+reason: (\S+)", text)
    return tuple(name for name, leg, reason in entries if leg == "client" and reason == "extension")


def run_server(url: str, revision: str, out: Path, *, scenario: str = "") -> Report:
    """Run the server side of the suite.

    Args:
        url: MCP endpoint; the host must be ``localhost``.
        revision: wire, one of ``REVISIONS``; for ``scenario`` it is the one that scenario wants.
        out: empty folder for the results.
        scenario: only this one.
    """
    words = ["server", "--url", url, "-o", str(out)]
    if scenario:
        words += ["--scenario", scenario]
    elif revision in FROZEN:
        words += ["--requirements", revision]
    else:
        words += ["--suite", "all", "--spec-version", revision]
    return _run(words, out)


def run_client(command: str, scenario: str, revision: str, out: Path) -> Report:
    """Run one scenario of the client side: the suite is the server, ``command`` the client.

    ``revision`` "" = that of the scenario itself; an extension belongs to none.
    """
    words = ["client", "--command", command, "--scenario", scenario, "-o", str(out)]
    words += ["--spec-version", revision] if revision else []
    return _run([*words, "--timeout", "60000"], out)


def _run(words: list[str], out: Path) -> Report:
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(NODE), str(PACKAGE / "dist" / "index.js"), *words],
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        stdin=subprocess.DEVNULL,
        cwd=out,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parents[1])},
        check=False,
    )
    return Report(checks=tuple(_read(out)), output=(done.stdout + done.stderr)[-4000:])


def _read(out: Path) -> list[Check]:
    found: list[Check] = []
    for file in sorted(out.rglob("checks.json")):
        named = _FOLDER_NAME.fullmatch("/".join(file.parent.relative_to(out).parts))
        assert named is not None, f"the suite names its results in a new way: {file.parent.name}"
        found += (_check(named["scenario"], one) for one in json.loads(file.read_text()))
    return found


def _check(scenario: str, one: dict[str, Any]) -> Check:
    return Check(
        scenario=scenario,
        name=str(one.get("id")),
        status=str(one.get("status")),
        said=str(one.get("errorMessage") or ""),
        evidence=json.dumps(one.get("details")) if one.get("details") else "",
    )
