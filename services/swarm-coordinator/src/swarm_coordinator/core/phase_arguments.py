"""``phases`` of a task, read: from arguments, or from the output of a planner agent."""

import re

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.fanning import STEPS_MAX
from swarm_coordinator.core.limits import AGENTS_MAX, TIMEOUT_MAX_S
from swarm_coordinator.core.reading import Table, elements_of
from swarm_coordinator.core.references import RESERVED
from swarm_coordinator.core.rule_arguments import (
    NAME_CHARS_MAX,
    aggregate_of,
    coordination_of,
    pointer_of,
    retry_of,
)
from swarm_coordinator.core.spec import Coordination, Fanout, PhaseSpec
from swarm_coordinator.core.views import PlanError

__all__ = ["CAPABILITIES_MAX", "PHASES_MAX", "phases_of"]

PHASES_MAX = 100
PROMPT_CHARS_MAX = 262_144
CAPABILITIES_MAX = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def phases_of(table: Table, rules: Coordination) -> tuple[PhaseSpec, ...]:
    """Member ``phases``; () = not given.

    Args:
        table: the object that has it.
        rules: how votes are taken where a phase does not say.

    Raises:
        PlanError: with the place of what is wrong.
    """
    return table.each("phases", PHASES_MAX, lambda phase: _phase(phase, rules))


def _phase(table: Table, rules: Coordination) -> PhaseSpec:
    phase = PhaseSpec(
        name=_name(table),
        agents=table.texts("agents", most=AGENTS_MAX, chars=NAME_CHARS_MAX),
        requires=table.texts("requires", most=CAPABILITIES_MAX, chars=NAME_CHARS_MAX),
        tool=table.text("tool", most=NAME_CHARS_MAX),
        prompt=table.text("prompt", most=PROMPT_CHARS_MAX),
        input=table.raw("input"),
        dependencies=table.texts("dependencies", most=PHASES_MAX, chars=NAME_CHARS_MAX),
        fanout=_fanout(table),
        aggregate=aggregate_of(table, "aggregate"),
        vote=coordination_of(table.table("vote"), rules) if table.has("vote") else None,
        timeout=table.integer("timeout", 0, 1, TIMEOUT_MAX_S),
        retry=retry_of(table, "retryPolicy"),
        idempotent=table.flag("idempotent", default=True),
        on_failure=table.word("onFailure", ("fail", "continue", "skip_dependents"), "fail"),
        approval=table.flag("approval", default=False),
    )
    if phase.tool and phase.prompt:
        raise PlanError(table.where, "expected a tool or a prompt, not both")
    if phase.tool and table.has("input") and table.kind("input") != "an object":
        raise PlanError(table.at("input"), "expected an object: the arguments of the tool")
    has_input = phase.input is not ABSENT
    if not (phase.tool or phase.prompt or has_input or phase.fanout):
        raise PlanError(table.where, "expected a tool, a prompt, an input or a fanout")
    if phase.fanout and phase.fanout.shards and not has_input:
        raise PlanError(table.at("input"), "is missing: shards are parts of it")
    return phase


def _name(table: Table) -> str:
    name = table.text("name", least=1, most=NAME_CHARS_MAX)
    if not _NAME.fullmatch(name) or name in RESERVED:
        expected = "expected 1 to 64 letters, digits, _ and -, beginning with a letter or digit"
        if name in RESERVED:
            expected = f"expected another name: {', '.join(RESERVED)} have a meaning in references"
        raise PlanError(table.at("name"), expected)
    return name


def _fanout(table: Table) -> Fanout | None:
    if not table.has("fanout"):
        return None
    given = table.table("fanout")
    items = given.raw("items")
    if items is not ABSENT:
        elements_of(items, given.at("items"), STEPS_MAX)
    found = Fanout(
        items=items,
        items_from=pointer_of(given, "itemsFrom"),
        shards=given.integer("shards", 0, 1, STEPS_MAX),
    )
    given.end()
    if sum((items is not ABSENT, bool(found.items_from), bool(found.shards))) != 1:
        raise PlanError(given.where, "expected exactly one of items, itemsFrom and shards")
    return found
