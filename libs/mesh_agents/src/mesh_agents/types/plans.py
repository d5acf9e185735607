"""Plans that a coordinator makes of who is there: phases as ``task_orchestrate`` takes them.

A coordinator understands no description. It is asked by name, in the task's ``input``
(``"planner": true``)::

    {"plan": "quality_gate", "root": "proj", "files": ["src"], "tests": ["tests"],
     "allowed": {"findings": 0, "failed": 0}}

``quality_gate``: reviewer, security, tester and coder look at a tree side by side, as far as the
swarm has them, and a validator (required) judges: at most so many findings, failed tests and files
that a formatter would change (``unformatted``; of what ``allowed`` does not name: 0 findings, 0
failed tests, any number of files).
"""

from collections.abc import Callable, Mapping

import msgspec

from mesh_agents.contract import Json, StepInput, StepOutput, StepRejectedError
from mesh_agents.types.inputs import Input, refuse

__all__ = ["PLANS", "planned"]


class Allowed(Input, frozen=True, kw_only=True):
    """Most that passes; None = any number."""

    findings: int | None = 0
    failed: int | None = 0
    unformatted: int | None = None


class Gate(Input, frozen=True, kw_only=True):
    """``input`` of a ``quality_gate``."""

    plan: str
    root: str = ""
    files: tuple[str, ...] = ()
    tests: tuple[str, ...] = (".",)
    allowed: Allowed = Allowed()


class _Member(msgspec.Struct, frozen=True):
    id: str
    type: str


class _Asked(msgspec.Struct, frozen=True):
    """What the owner says to a planner."""

    agents: tuple[_Member, ...]
    input: dict[str, object] = {}


def planned(step: StepInput) -> StepOutput:
    """``{"phases": […]}`` for the plan that is asked for.

    Raises:
        StepRejectedError: no plan of this module is asked for: another planner shall.
        StepFailedError: ``input``: it is, and cannot be made.
    """
    try:
        asked = msgspec.convert(step.payload.get("input"), _Asked)
    except msgspec.ValidationError as error:
        raise StepRejectedError(f"this is no question for a plan: {error}") from None
    make = PLANS.get(str(asked.input.get("plan", "")))
    if make is None:
        raise StepRejectedError(
            f"a coordinator plans {', '.join(PLANS)}, asked for by input.plan; it reads no prose"
        )
    phases = make(asked.input, {member.type for member in asked.agents})
    return StepOutput(structured={"phases": phases}, text=f"{len(phases)} phases")


def _quality_gate(given: Mapping[str, object], there: set[str]) -> list[Json]:
    try:
        wanted = msgspec.convert(given, Gate)
    except msgspec.ValidationError as error:
        raise refuse(f"input: {error}") from None
    if "validator" not in there:
        raise refuse("a quality gate needs a validator")
    place: dict[str, Json] = {"root": wanted.root, "files": list(wanted.files)}
    tests: dict[str, Json] = {"do": "run", "root": wanted.root, "tests": list(wanted.tests)}
    work: dict[str, tuple[str, dict[str, Json], str, str, int | None]] = {
        # phase: type, input, what of its output counts, how, and how much of it passes
        "review": ("reviewer", place, "findings", "max_length", wanted.allowed.findings),
        "scan": ("security", place, "findings", "max_length", wanted.allowed.findings),
        "tests": ("tester", tests, "failed", "at_most", wanted.allowed.failed),
        "tidy": ("coder", {**place, "do": ["format"]}, "files", "max_length",
                 wanted.allowed.unformatted),
    }  # fmt: skip
    phases: list[Json] = []
    value: dict[str, Json] = {}
    assertions: list[Json] = []
    for name, (kind, its_input, member, rule, most) in work.items():
        if kind in there and most is not None:
            phases.append({"name": name, "agents": [kind], "input": its_input})
            value[name] = {"$ref": f"/{name}/output/{member}"}
            assertions.append({"pointer": f"/{name}", "is": rule, "value": most})
    if not phases:
        raise refuse("a quality gate needs a reviewer, security, tester or coder")
    judged: Json = {"value": value, "assertions": assertions}
    before: list[Json] = list(value)
    phases.append(
        {"name": "judge", "agents": ["validator"], "dependencies": before, "input": judged}
    )
    return phases


PLANS: Mapping[str, Callable[[Mapping[str, object], set[str]], list[Json]]] = {
    "quality_gate": _quality_gate,
}
