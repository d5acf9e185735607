"""``validator``: JSON against a JSON Schema and against assertions at JSON pointers.

Input (``payload.input``)::

    {"value": {…} | "path": "out.json", "schema": {…}, "assertions": [ASSERTION, …]}

    ASSERTION  {"pointer": "/passed", "is": "at_least", "value": 3}
               is: present, absent, equals, differs, less, at_most, more, at_least, in, contains,
               matches (a regular expression, found anywhere), type (a JSON type), length (of a
               text, list or object), min_length, max_length

A step of kind ``validate`` has what shall be judged as its whole input; schema and assertions are
then those of the agent's ``config`` (which also are the default otherwise). Output::

    {"verdict": "approve" | "reject", "valid": true, "checked": 4,
     "issues": [{"pointer": "/passed", "rule": "at_least", "message": "2 is not at least 3"}]}

With neither schema nor assertions it refuses: nothing would have been checked. Schemas refer to
nothing outside themselves.
"""

import re
from collections.abc import Callable, Mapping
from typing import Literal

import jsonschema_rs
import msgspec

from mesh_agents.contract import AgentType, Json, StepInput, StepOutput, ballot
from mesh_agents.types.inputs import Input, JsonValue, refuse
from mesh_agents.types.places import FILE_BYTES_MAX, read_bytes, roots_of
from mesh_agents.types.pointers import Missing, at

__all__ = ["VALIDATOR", "Issue", "Verdict", "run"]

ISSUES_MAX = 200
ASSERTIONS_MAX = 1_000
MESSAGE_CHARS_MAX = 300


class Assertion(Input, frozen=True, kw_only=True):
    """One thing that must hold; ``value`` is what the rule compares with."""

    pointer: str
    rule: str = msgspec.field(name="is")
    value: JsonValue = None


class Validation(Input, frozen=True, kw_only=True):
    """Input; see the module."""

    value: JsonValue | msgspec.UnsetType = msgspec.UNSET
    path: str = ""
    schema: dict[str, JsonValue] | bool | None = None
    assertions: tuple[Assertion, ...] = ()


class _Rules(Input, frozen=True, kw_only=True):
    schema: dict[str, JsonValue] | bool | None = None
    assertions: tuple[Assertion, ...] = ()


class Issue(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, and where in the value."""

    pointer: str
    rule: str
    message: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Output; ``checked`` = schema and assertions that were looked at."""

    verdict: Literal["approve", "reject"]
    valid: bool
    checked: int
    issues: list[Issue]


def run(step: StepInput) -> StepOutput:
    """Judge; see the module.

    Raises:
        StepFailedError: ``input``: no value, nothing to check it with, a bad schema or assertion.
    """
    wanted = _wanted(step)
    value = _value(step, wanted)
    issues: list[Issue] = []
    checked = len(wanted.assertions)
    if wanted.schema is not None:
        checked += 1
        issues += _by_schema(wanted.schema, value)
    for number, assertion in enumerate(wanted.assertions):
        message = _by_assertion(value, assertion, number)
        if message:
            issues.append(
                Issue(pointer=assertion.pointer, rule=assertion.rule, message=_short(message))
            )
    valid = not issues
    verdict = Verdict(
        verdict="approve" if valid else "reject",
        valid=valid,
        checked=checked,
        issues=issues[:ISSUES_MAX],
    )
    said = "; ".join(f"{one.pointer or '/'}: {one.message}" for one in issues[:5])
    return StepOutput(
        structured=verdict,
        text=said or f"{checked} checks passed",
        ballot=ballot(verdict.verdict, rationale=said) if step.kind == "vote" else None,
    )


def _wanted(step: StepInput) -> Validation:
    rules = {name: step.config[name] for name in ("schema", "assertions") if name in step.config}
    try:
        own = msgspec.convert(rules, _Rules)
        if step.kind == "validate":
            judged = step.payload.get("input")
            wanted = Validation(value=judged, schema=own.schema, assertions=own.assertions)
        else:
            wanted = msgspec.convert(step.payload.get("input"), Validation)
    except msgspec.ValidationError as error:
        raise refuse(f"input: {error}") from None
    if wanted.schema is None and not wanted.assertions:
        wanted = msgspec.structs.replace(wanted, schema=own.schema, assertions=own.assertions)
    if wanted.schema is None and not wanted.assertions:
        raise refuse("neither schema nor assertions: there is nothing to check")
    if len(wanted.assertions) > ASSERTIONS_MAX:
        raise refuse(f"input.assertions: at most {ASSERTIONS_MAX}")
    return wanted


def _value(step: StepInput, wanted: Validation) -> Json:
    if not wanted.path:
        if wanted.value is msgspec.UNSET:
            raise refuse("input: value or path is missing")
        return wanted.value
    if wanted.value is not msgspec.UNSET:
        raise refuse("input: one of value and path")
    found = roots_of(step).find(wanted.path)
    try:
        content = read_bytes(found, limit=FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise refuse(f"{wanted.path} is larger than {FILE_BYTES_MAX} bytes")
        return msgspec.json.decode(content)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise refuse(f"{wanted.path} is not JSON that can be read: {error}") from None


def _by_schema(schema: dict[str, Json] | bool, value: Json) -> list[Issue]:
    def nothing(uri: str, /) -> str:
        raise LookupError("a schema refers to nothing outside itself")

    try:
        validator = jsonschema_rs.validator_for(schema, retriever=nothing)
        issues: list[Issue] = []
        for error in validator.iter_errors(value):
            pointer = "".join(
                "/" + str(part).replace("~", "~0").replace("/", "~1")
                for part in error.instance_path
            )
            rule = str(error.schema_path[-1]) if error.schema_path else "false"
            issues.append(Issue(pointer=pointer, rule=rule, message=_short(error.message)))
            if len(issues) >= ISSUES_MAX:
                break
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise refuse(f"input.schema: {_short(str(error))}") from None
    return issues


def _short(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS_MAX else f"{text[:MESSAGE_CHARS_MAX]}…"


def _by_assertion(value: Json, assertion: Assertion, number: int) -> str:
    """What is wrong; "" = nothing."""
    rule = _RULES.get(assertion.rule)
    if rule is None:
        known = ", ".join(["present", "absent", *_RULES])
        if assertion.rule not in ("present", "absent"):
            raise refuse(f"input.assertions/{number}: no rule {assertion.rule}; there are {known}")
    try:
        found = at(value, assertion.pointer)
    except Missing as missing:
        return "" if assertion.rule == "absent" else str(missing)
    if rule is None:
        return "" if assertion.rule == "present" else "something stands there"
    holds, words = rule
    try:
        fine = holds(found, assertion.value)
    except (TypeError, re.error) as error:
        raise refuse(f"input.assertions/{number}: {error}") from None
    shown = msgspec.json.encode(found).decode()
    return "" if fine else f"{_short(shown)} {words} {assertion.value!r}"


def _number(value: Json) -> float | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value


def _compared(compare: Callable[[float, float], bool]) -> Callable[[Json, Json], bool]:
    def holds(found: Json, wanted: Json) -> bool:
        number, bound = _number(found), _number(wanted)
        if bound is None:
            raise TypeError("value is not a number")
        return number is not None and compare(number, bound)

    return holds


def _sized(compare: Callable[[int, int], bool]) -> Callable[[Json, Json], bool]:
    def holds(found: Json, wanted: Json) -> bool:
        if isinstance(wanted, bool) or not isinstance(wanted, int):
            raise TypeError("value is not an integer")
        return isinstance(found, str | list | dict) and compare(len(found), wanted)

    return holds


def _equal(found: Json, wanted: Json) -> bool:
    """As JSON: 1 = 1.0, but true is not 1, at any depth."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(_equal(found[k], wanted[k]) for k in found)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    return found == wanted


def _in(found: Json, wanted: Json) -> bool:
    if not isinstance(wanted, list):
        raise TypeError("value is not a list")
    return any(_equal(found, one) for one in wanted)


def _contains(found: Json, wanted: Json) -> bool:
    if isinstance(found, str):
        return isinstance(wanted, str) and wanted in found
    if isinstance(found, dict):
        return isinstance(wanted, str) and wanted in found
    return isinstance(found, list) and any(_equal(one, wanted) for one in found)


def _matches(found: Json, wanted: Json) -> bool:
    if not isinstance(wanted, str):
        raise TypeError("value is not a regular expression")
    pattern = re.compile(wanted)
    return isinstance(found, str) and pattern.search(found) is not None


def _typed(found: Json, wanted: Json) -> bool:
    kinds: Mapping[str, bool] = {
        "null": found is None,
        "boolean": isinstance(found, bool),
        "number": _number(found) is not None,
        "integer": _number(found) is not None and float(_number(found) or 0).is_integer(),
        "string": isinstance(found, str),
        "array": isinstance(found, list),
        "object": isinstance(found, dict),
    }
    if not isinstance(wanted, str) or wanted not in kinds:
        raise TypeError(f"value is not a JSON type; there are {', '.join(kinds)}")
    return kinds[wanted]


_RULES: Mapping[str, tuple[Callable[[Json, Json], bool], str]] = {
    "equals": (_equal, "does not equal"),
    "differs": (lambda found, wanted: not _equal(found, wanted), "equals"),
    "less": (_compared(lambda a, b: a < b), "is not less than"),
    "at_most": (_compared(lambda a, b: a <= b), "is not at most"),
    "more": (_compared(lambda a, b: a > b), "is not more than"),
    "at_least": (_compared(lambda a, b: a >= b), "is not at least"),
    "in": (_in, "is not in"),
    "contains": (_contains, "does not contain"),
    "matches": (_matches, "does not match"),
    "type": (_typed, "is not of type"),
    "length": (_sized(lambda a, b: a == b), "has not the length"),
    "min_length": (_sized(lambda a, b: a >= b), "is shorter than"),
    "max_length": (_sized(lambda a, b: a <= b), "is longer than"),
}

VALIDATOR = AgentType(
    name="validator",
    description="Judges JSON by a JSON Schema and by assertions at JSON pointers: approve or "
    "reject, with every issue and its place.",
    capabilities=("validate", "json_schema"),
    run=run,
    kinds=frozenset({"call", "validate", "vote"}),
)
