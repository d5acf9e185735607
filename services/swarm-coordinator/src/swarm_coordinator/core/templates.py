"""Named plans over the built-in agent types, for work that many ask for.

``input`` of the task is the input of the template; members are documented at each function. Agents
are looked for by type, so a swarm without them is told which are missing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.fanning import STEPS_MAX
from swarm_coordinator.core.phase_arguments import CAPABILITIES_MAX
from swarm_coordinator.core.reading import Table, elements_of
from swarm_coordinator.core.rule_arguments import NAME_CHARS_MAX, aggregate_of
from swarm_coordinator.core.rule_classes import LINTERS, SCANNERS, electorate
from swarm_coordinator.core.spec import (
    Aggregate,
    Coordination,
    Equality,
    Fanout,
    SwarmConfig,
    TaskSpec,
)
from swarm_coordinator.core.team import named
from swarm_coordinator.core.views import AgentView, MergeForm, PhasePlan, PlanError

__all__ = ["TEMPLATES", "Template", "broadcast_of", "expanded", "rules_of"]

Template: TypeAlias = Literal["", "code_review", "test_run", "map_reduce", "broadcast"]
TEMPLATES: tuple[Template, ...] = ("", "code_review", "test_run", "map_reduce", "broadcast")

FILES_MAX = 20_000
SHARDS_MAX = 1_000
FILES_PER_SHARD = 100
"""Files that a reviewer looks at in one step, where the caller does not say."""
SHARDS_PER_SLOT = 2
"""Shards for each slot: the end of a phase waits for half a share of the slowest agent."""

WHERE = "/task/input"


def rules_of(template: str, config: SwarmConfig) -> Coordination:
    """How votes are taken where the caller does not say.

    ``code_review`` accepts a finding (same file, line and class) when the share of
    ``consensusThreshold`` of those that know its class have it; a finding that is not accepted
    is listed with its dissent and fails nothing.
    """
    rules = Coordination(
        voting_mechanism=config.voting_mechanism,
        consensus_threshold=config.consensus_threshold,
        conflict_resolution=config.conflict_resolution,
    )
    if template != "code_review":
        return rules
    return msgspec.structs.replace(
        rules,
        voting_mechanism="threshold",
        equality=Equality(kind="items", pointer="/findings", keys=("file", "line", "class")),
        electorate=electorate(),
    )


def expanded(
    spec: TaskSpec, agents: Sequence[AgentView], warnings: list[str]
) -> tuple[PhasePlan, ...]:
    """The phases of the template that a task names.

    Raises:
        PlanError: an input that the template cannot use.
    """
    return _MAKERS[spec.template](spec, agents, warnings)


def broadcast_of(
    spec: TaskSpec, _agents: Sequence[AgentView] = (), _warnings: Sequence[str] = ()
) -> tuple[PhasePlan, ...]:
    """``broadcast``, and what a task without a plan is: the same for ``parallelism`` agents.

    ``input``: anything. Agents are sent it with the description beside it (``call``), or the
    description alone (``prompt``). Their outputs are aggregated, or voted on with
    ``consensusRequired``.
    """
    has_input = spec.input is not ABSENT
    voted = spec.consensus_required
    return (
        PhasePlan(
            name="broadcast",
            kind="vote" if voted else "call" if has_input else "prompt",
            prompt=spec.description,
            input=spec.input,
            each=True,
            aggregate=spec.execution.aggregate,
            vote=spec.coordination if voted else None,
            retry=spec.execution.retry,
        ),
    )


def _code_review(
    spec: TaskSpec, agents: Sequence[AgentView], warnings: list[str]
) -> tuple[PhasePlan, ...]:
    """Every reviewer and security agent looks at every shard of files; votes are per finding.

    ``input``: ``files`` (required; names below ``root``; folders too), ``root``, ``reviewers``
    (ids, names or types; default ``reviewer`` and ``security``, whichever there are), ``shards``
    or ``filesPerShard`` (default 100), ``unmapped`` and ``comments`` as these types take them.
    Agents vote on the classes of the tools among their capabilities (``ruff``, ``bandit`` …).
    The result is the list of accepted findings.
    """
    table = _input(spec, warnings)
    files = _names(table, "files", FILES_MAX)
    if not files:
        raise PlanError(table.at("files"), "is missing: files or folders to look at")
    reviewers = table.texts("reviewers", most=CAPABILITIES_MAX, chars=NAME_CHARS_MAX)
    present = tuple(name for name in ("reviewer", "security") if named(name, agents))
    voters = reviewers or present or ("reviewer",)
    size = table.integer("filesPerShard", FILES_PER_SHARD, 1, FILES_MAX)
    count = table.integer("shards", -(-len(files) // size), 1, SHARDS_MAX)
    rest = _kept(table, "root", "unmapped", "comments", "tools")
    table.end()
    return (
        PhasePlan(
            name="review",
            kind="vote",
            agents=voters,
            input=_raw(rest),
            fanout=Fanout(items=_raw([{"files": some} for some in _cut(files, count)])),
            vote=_competent(spec.coordination, voters, agents, warnings),
            aggregate=Aggregate(kind="concat"),
            retry=spec.execution.retry,
        ),
    )


def _competent(
    rules: Coordination, voters: Sequence[str], agents: Sequence[AgentView], warnings: list[str]
) -> Coordination:
    """The default electorate, fitted to what the voters declare.

    Agents of a type of which none declares a tool run all tools of it, and vote as all of them.
    """
    if bytes(rules.electorate) != bytes(electorate()):
        return rules
    also: list[str] = []
    every = {agent.id: agent for name in voters for agent in named(name, agents)}.values()
    for group, tools in (("lint", LINTERS), ("security", SCANNERS)):
        members = [agent for agent in every if group in agent.capabilities]
        silent = [agent.id for agent in members if not set(tools).intersection(agent.capabilities)]
        if len(silent) == len(members):
            also.append(group)
        elif silent:
            shown = ", ".join(silent)
            warnings.append(f"{shown}: no vote, none of {', '.join(tools)} is among capabilities")
    return msgspec.structs.replace(rules, electorate=electorate(also))


def _test_run(
    spec: TaskSpec, agents: Sequence[AgentView], warnings: list[str]
) -> tuple[PhasePlan, ...]:
    """Tests are collected, run in shards of equal duration, and what failed once more elsewhere.

    ``input``: ``root``, ``tests`` (files, folders or ids; default all), ``shards`` (default 2 per
    slot of the testers), ``durations`` (test id → seconds of an earlier run), ``keyword``,
    ``marker``. The result is one report with ``junit``; a test that failed and then passed is
    ``flaky``.
    """
    table = _input(spec, warnings)
    shards = table.integer("shards", _shards_for("tester", agents), 1, SHARDS_MAX)
    if table.has("durations") and table.kind("durations") != "an object":
        raise PlanError(table.at("durations"), "expected an object: test id to seconds")
    _names(table, "tests", FILES_MAX)
    rest = _kept(table, "root", "tests", "keyword", "marker", "durations")
    table.end()
    merge = MergeForm(input=_raw({"do": "merge"}), member="runs")
    reduced = PhasePlan(
        name="run",
        agents=("tester",),
        dependencies=("collect",),
        fanout=Fanout(items_from="/collect/output/shards"),
        items_min=1,
        aggregate=Aggregate(kind="reduce", agent="tester"),
        merge=merge,
        retry=spec.execution.retry,
    )
    return (
        PhasePlan(
            name="collect",
            agents=("tester",),
            input=_raw({"do": "collect", **rest, "shards": shards, "retry": False}),
            single=True,
            retry=spec.execution.retry,
        ),
        reduced,
        msgspec.structs.replace(
            reduced,
            name="again",
            dependencies=("run",),
            fanout=Fanout(items_from="/run/output/failures"),
            items_min=0,
            optional=True,
            elsewhere="agent",
            merge=msgspec.structs.replace(merge, begin="/run/output"),
        ),
    )


def _map_reduce(
    spec: TaskSpec, agents: Sequence[AgentView], warnings: list[str]
) -> tuple[PhasePlan, ...]:
    """Parts of a whole are worked on side by side, and what comes of them is put together.

    ``input`` over data that analysts read: ``sources`` and ``analysis`` as the type ``analyst``
    takes them, ``shards`` (default 2 per slot of the analysts). The result is one summary.

    ``input`` over anything else: ``items`` (required), ``map`` (``agent``: id, name or type;
    ``tool``; ``prompt``; ``input``: as in a phase, ``{"$ref": "/item"}`` is the item; one of the
    first three is required), ``reduce`` (an aggregate; default ``all``).
    """
    table = _input(spec, warnings)
    if table.has("sources"):
        return _analysis(table, spec, agents)
    if not table.has("items"):
        raise PlanError(table.at("items"), "is missing: items, or sources for analysts")
    items = table.raw("items")
    elements_of(items, table.at("items"), STEPS_MAX)
    mapped = table.table("map")
    agent = mapped.text("agent", most=NAME_CHARS_MAX)
    tool = mapped.text("tool", most=NAME_CHARS_MAX)
    prompt = mapped.text("prompt", most=NAME_CHARS_MAX * 1_024)
    if not (agent or tool or prompt) or (tool and prompt):
        raise PlanError(mapped.where, "expected an agent, a tool or a prompt to map with")
    phase = PhasePlan(
        name="map",
        kind="tool" if tool else "prompt" if prompt else "call",
        agents=(agent,) if agent else (),
        tool=tool,
        prompt=prompt,
        input=mapped.raw("input"),
        fanout=Fanout(items=items),
        aggregate=aggregate_of(table, "reduce") or spec.execution.aggregate,
        retry=spec.execution.retry,
    )
    mapped.end()
    table.end()
    return (phase,)


def _analysis(table: Table, spec: TaskSpec, agents: Sequence[AgentView]) -> tuple[PhasePlan, ...]:
    shards = table.integer("shards", _shards_for("analyst", agents), 1, SHARDS_MAX)
    rest = _kept(table, "sources", "analysis")
    table.end()
    return (
        PhasePlan(
            name="split",
            input=_raw({"do": "split", **rest, "shards": shards}),
            agents=("analyst",),
            single=True,
            retry=spec.execution.retry,
        ),
        PhasePlan(
            name="map",
            dependencies=("split",),
            fanout=Fanout(items_from="/split/output/shards"),
            items_min=1,
            agents=("analyst",),
            aggregate=Aggregate(kind="reduce", agent="analyst"),
            retry=spec.execution.retry,
        ),
    )


_Maker: TypeAlias = Callable[[TaskSpec, Sequence[AgentView], list[str]], tuple[PhasePlan, ...]]
_MAKERS: dict[str, _Maker] = {
    "code_review": _code_review,
    "test_run": _test_run,
    "map_reduce": _map_reduce,
    "broadcast": broadcast_of,
}


def _input(spec: TaskSpec, warnings: list[str]) -> Table:
    if spec.input is ABSENT:
        raise PlanError(WHERE, f"is missing: an object, as {spec.template} takes it")
    return Table(spec.input, WHERE, warnings)


def _names(table: Table, name: str, most: int) -> list[str]:
    """Names of files and tests, which may be longer than those of agents."""
    return list(table.texts(name, most=most, chars=4_096))


def _kept(table: Table, *names: str) -> dict[str, msgspec.Raw]:
    """Members that agents get as they came."""
    return {name: table.raw(name) for name in names if table.has(name)}


def _shards_for(kind: str, agents: Sequence[AgentView]) -> int:
    slots = sum(agent.slots for agent in agents if agent.type == kind)
    return min(SHARDS_MAX, max(1, SHARDS_PER_SLOT * slots))


def _cut(names: Sequence[str], count: int) -> list[Sequence[str]]:
    """Runs whose lengths differ by one at most; none is empty."""
    parts = min(count, len(names))
    return [names[len(names) * i // parts : len(names) * (i + 1) // parts] for i in range(parts)]


def _raw(value: Mapping[str, object] | Sequence[object]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
