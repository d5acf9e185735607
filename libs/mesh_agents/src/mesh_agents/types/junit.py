"""JUnit XML as pytest writes it (family xunit1, which has the file), in and out."""

import math
import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as ET

import msgspec

from mesh_agents.contract import StepFailedError

__all__ = ["Case", "Outcome", "merged", "parse", "render"]

XML_BYTES_MAX = 64 * 1024 * 1024
MESSAGE_CHARS_MAX = 4_000
"""Of a failure's text; its end is kept, where the assertion stands."""
WHOLE_MAX = 100
"""Failures whose text is kept so; of a suite that fails as a whole the first tell enough."""
SHORT_CHARS_MAX = 200
Outcome = str
"""``passed``, ``skipped``, ``flaky``, ``failed`` or ``error``; later is worse."""
_ORDER = ("passed", "skipped", "flaky", "failed", "error")
_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Case(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One test.

    Attributes:
        id: as pytest names it, ``tests/test_a.py::TestX::test_b[1]``.
        outcome: how it ended, over all attempts: ``flaky`` = failed, then passed.
        seconds: of the last attempt, set-up and tear-down included.
        message: why it did not pass; of a flaky one, why it failed first.
        attempts: how often it ran.
        agent: who ran it last.
    """

    id: str
    outcome: Outcome
    seconds: float
    message: str = ""
    attempts: int = 1
    agent: str = ""


def parse(content: bytes, agent: str = "") -> list[Case]:
    """The cases of one run, in its order.

    Raises:
        StepFailedError: ``junit``: not such a file. Documents with a DTD are refused: nothing
            that pytest writes has one, and entities can be made to explode.
    """
    if len(content) > XML_BYTES_MAX:
        raise StepFailedError("the JUnit file is too large", type="junit", retryable=False)
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise StepFailedError("the JUnit file has a DTD", type="junit", retryable=False)
    try:
        tree = ET.fromstring(content)  # noqa: S314 - no DTD, so no entities
    except ET.ParseError as error:
        raise StepFailedError(f"the JUnit file is broken: {error}", type="junit") from None
    cases: dict[str, Case] = {}
    bad = 0
    for element in tree.iter("testcase"):
        case = _case(element, agent)
        bad += case.outcome in ("failed", "error")
        if bad > WHOLE_MAX:
            case = msgspec.structs.replace(case, message=case.message[-SHORT_CHARS_MAX:])
        before = cases.get(case.id)
        # A test that failed and whose tear-down failed too stands there twice.
        cases[case.id] = case if before is None else _worse(before, case)
    return list(cases.values())


def _worse(left: Case, right: Case) -> Case:
    worst = max(left, right, key=lambda case: _ORDER.index(case.outcome))
    return msgspec.structs.replace(worst, seconds=left.seconds + right.seconds)


def _case(element: ET.Element, agent: str) -> Case:
    outcome, message = "passed", ""
    for tag, means in (("skipped", "skipped"), ("failure", "failed"), ("error", "error")):
        child = element.find(tag)
        if child is not None:
            outcome = means
            message = ((child.text or "") or child.get("message", ""))[-MESSAGE_CHARS_MAX:]
    try:
        seconds = float(element.get("time", "0"))
    except ValueError:
        seconds = 0.0
    return Case(
        id=_node(element),
        outcome=outcome,
        seconds=seconds if math.isfinite(seconds) else 0.0,
        message=message,
        agent=agent,
    )


def _node(element: ET.Element) -> str:
    """Node id from file, class name and name.

    Without a file (a module that did not import) the class name or the name is all there is.
    """
    name = element.get("name", "")
    file = element.get("file", "")
    dotted = element.get("classname", "")
    if not file:
        path = (dotted or name).replace(".", "/") + ".py"
        return f"{path}::{name}" if dotted and name else path
    module = file.removesuffix(".py").replace("/", ".").replace("\\", ".")
    if not dotted:
        return file  # the module did not import
    classes = [part for part in dotted.removeprefix(module).split(".") if part]
    return "::".join([file, *classes, name])


def merged(runs: Iterable[Sequence[Case]]) -> list[Case]:
    """Runs in the order in which they took place → one case per test, sorted by id.

    A test that failed first and passed later is ``flaky``; one that ran twice with the same end
    keeps it; whatever passed first and failed in another shard has failed.
    """
    cases: dict[str, Case] = {}
    for run in runs:
        for case in run:
            before = cases.get(case.id)
            cases[case.id] = case if before is None else _later(before, case)
    return [cases[name] for name in sorted(cases)]


def _dotted(place: str) -> str:
    """``tests/test_a.py::TestX`` → ``tests.test_a.TestX``, as pytest writes it."""
    file, *classes = place.split("::")
    return ".".join([file.removesuffix(".py").replace("/", "."), *classes])


def _later(before: Case, case: Case) -> Case:
    attempts = before.attempts + case.attempts
    bad = ("failed", "error")
    if before.outcome in bad and case.outcome in ("passed", "flaky"):
        return msgspec.structs.replace(
            case, outcome="flaky", message=before.message, attempts=attempts
        )
    worst = max(case, before, key=lambda one: _ORDER.index(one.outcome))
    return msgspec.structs.replace(worst, attempts=attempts)


def render(cases: Sequence[Case], name: str) -> str:
    """One JUnit document. A flaky test is a passed one with ``<flakyFailure>`` (as Surefire)."""
    counts = {outcome: sum(case.outcome == outcome for case in cases) for outcome in _ORDER}
    suite = ET.Element(
        "testsuite",
        name=name,
        tests=str(len(cases)),
        failures=str(counts["failed"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=f"{math.fsum(case.seconds for case in cases):.3f}",
    )
    tags = {"failed": "failure", "error": "error", "skipped": "skipped", "flaky": "flakyFailure"}
    for case in cases:
        place, _, rest = _NOT_XML.sub("\ufffd", case.id).rpartition("::")
        file = place.partition("::")[0] or rest
        element = ET.SubElement(
            suite, "testcase", classname=_dotted(place), name=rest,
            file=file, time=f"{case.seconds:.3f}",
        )  # fmt: skip
        if case.outcome in tags:
            message = _NOT_XML.sub("\ufffd", case.message)
            lines = [line for line in message.splitlines() if line.strip()]
            child = ET.SubElement(
                element, tags[case.outcome], message=lines[-1][:200] if lines else ""
            )
            child.text = message
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    body = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'
