"""Votes of a phase: ballots are counted, the rest is cancelled early, conflicts are resolved."""

import msgspec

from swarm_coordinator.core import conflicts
from swarm_coordinator.core.ballots import tally
from swarm_coordinator.core.decide.attempts import cancelled
from swarm_coordinator.core.events import Event, InputAsked, StepsAdded, VoteCounted
from swarm_coordinator.core.limits import EARLY_STOP_VOTERS_MAX, REVOTES_MAX
from swarm_coordinator.core.roster import available, network, voter_of
from swarm_coordinator.core.spec import Coordination
from swarm_coordinator.core.state import (
    PhaseState,
    Request,
    StepState,
    SwarmState,
    TaskState,
    VoteState,
)
from swarm_coordinator.core.team import named
from swarm_coordinator.core.views import PhasePlan, StepPlan
from swarm_coordinator.core.votes import Cast, Tally, with_dissent
from swarm_coordinator.core.weights import Voter, weights_of

__all__ = ["count", "decided_by_person", "votes_ended"]


def votes_ended(state: SwarmState, task: TaskState, phase: PhaseState) -> bool:
    """Whether every group has its outcome."""
    groups = state.agenda.groups.get((task.id, phase.name), {})
    return all((vote := phase.votes.get(str(group))) is not None and vote.ended for group in groups)


def count(
    state: SwarmState, task: TaskState, plan: PhasePlan, phase: PhaseState, now_ms: int
) -> list[Event]:
    """Look at the groups in which something has changed, up to the first consequence."""
    changed = state.agenda.voted.get((task.id, phase.name))
    while changed:
        group = next(iter(changed))
        events = _Group(state, task, plan, phase, group, now_ms).events()
        if events:
            return events
        del changed[group]
    return []


class _Group:
    """One vote."""

    def __init__(
        self,
        state: SwarmState,
        task: TaskState,
        plan: PhasePlan,
        phase: PhaseState,
        group: int,
        now_ms: int,
    ) -> None:
        self._state, self._task, self._plan, self._phase = state, task, plan, phase
        self._group, self._now = group, now_ms
        self._vote = phase.votes.get(str(group)) or VoteState()
        self._rules: Coordination = plan.vote or task.spec.coordination
        names = state.agenda.groups.get((task.id, phase.name), {}).get(group, [])
        self._steps = [task.steps[name] for name in names]
        self._voting = [
            step for step in self._steps if not step.role and step.round == self._vote.rounds
        ]

    def events(self) -> list[Event]:
        """The next thing that follows."""
        if self._vote.ended or self._phase.ended or not self._voting:
            return []
        out = sum(not step.ended for step in self._voting)
        if out and len(self._voting) > EARLY_STOP_VOTERS_MAX:
            return []
        helper = self._helper("judge")
        if helper is not None and not helper.ended:
            return []
        told = self._tally(helper)
        if not told.fixed:
            return [] if out else self._judge(told, helper)
        rest = cancelled(
            self._task,
            self._voting,
            "the vote was decided before" if told.reached else "the vote can reach nothing more",
            self._now,
        )
        if told.reached:
            method = self._rules.voting_mechanism
            return [*rest, self._ended(told, method, told.decision, reached=True)]
        return [*rest, *self._resolve(told)]

    def _helper(self, role: str) -> StepState | None:
        """The last step of a judge or of whoever decides, of this round."""
        rounds = self._vote.rounds
        return next(
            (one for one in reversed(self._steps) if one.role == role and one.round == rounds),
            None,
        )

    def _electorate(self) -> list[Voter]:
        agents = self._state.agents
        return [
            voter_of(agents[name]) if name in agents else Voter(id=name)
            for step in self._voting
            for name in step.plan.agents[:1]
        ]

    def _tally(self, judge: StepState | None) -> Tally:
        voters = self._electorate()
        casts = [
            Cast(voter=step.plan.agents[0], ballot=step.ballot, step=step.id, order=order)
            for order, step in enumerate(self._voting)
            if step.status == "done"
        ]
        absent = [
            step.plan.agents[0] for step in self._voting if step.ended and step.status != "done"
        ]
        required = self._task.spec.required_capabilities
        weights = weights_of(voters, self._rules.weights, required)
        told = tally(casts, self._rules, voters, weights, absent=absent)
        if judge is None or judge.status != "done":
            return told
        try:
            groups = conflicts.groups_of(told, bytes(judge.output))
        except conflicts.AnswerError:
            return told
        return tally(casts, self._rules, voters, weights, absent=absent, groups=groups)

    def _judge(self, told: Tally, asked: StepState | None) -> list[Event]:
        """Choices that only the judge can compare; once it has been asked, nobody else can."""
        agents = named(self._rules.equality.agent, available(self._state, self._task.spec))
        if told.reason != "judge" or asked is not None or not agents:
            return self._unreached(told, "the judge did not say which choices are the same")
        payload = msgspec.Raw(b'{"input":%b}' % conflicts.judge_question(told))
        return [self._ask("judge", tuple(agent.id for agent in agents), payload)]

    def _ask(self, role: str, agents: tuple[str, ...], payload: msgspec.Raw) -> Event:
        rounds = self._vote.rounds
        plan = StepPlan(
            step=f"{self._phase.name}-{self._group}{role}{rounds}",
            phase=self._phase.name,
            kind="merge" if role == "judge" else "vote",
            payload=payload,
            agents=agents,
            result=False,
            group=self._group,
            timeout_s=self._plan.timeout_s,
            retry=self._plan.retry,
            on_failure="continue",
        )
        return StepsAdded(
            at=self._now,
            task=self._task.id,
            phase=self._phase.name,
            steps=(plan,),
            round=rounds,
            role=role,  # type: ignore[arg-type]
        )

    # Not reached

    def _resolve(self, told: Tally) -> list[Event]:
        method = self._rules.conflict_resolution
        if not told.choices:
            return self._unreached(told, f"no choice was made ({told.reason})")
        if method == "revote":
            return self._revote(told)
        if method == "coordinator_decides":
            return self._coordinator(told)
        if method == "human":
            return self._person(told)
        if method == "expert_priority":
            required = self._task.spec.required_capabilities
            expert = conflicts.by_expertise(told, self._electorate(), required)
            if expert is not None:
                told = with_dissent(told, expert.choice)
                return [self._ended(told, method, told.decision)]
        return self._unreached(told, f"the vote reached no decision ({told.reason})")

    def _revote(self, told: Tally) -> list[Event]:
        rounds = self._vote.rounds
        if rounds > REVOTES_MAX:
            return self._unreached(told, f"no decision in {rounds} rounds ({told.reason})")
        shown = conflicts.revote_question(told, rounds + 1)
        first = [step for step in self._steps if not step.role and step.round == 1]
        steps = tuple(
            msgspec.structs.replace(
                step.plan,
                step=f"{step.id}r{rounds + 1}",
                payload=msgspec.Raw(bytes(step.payload)[:-1] + b',"revote":' + shown + b"}"),
                after=(),
            )
            for step in first
        )
        return [
            self._counted(VoteState(rounds=rounds + 1, method="revote"), told),
            StepsAdded(
                at=self._now,
                task=self._task.id,
                phase=self._phase.name,
                steps=steps,
                round=rounds + 1,
            ),
        ]

    def _coordinator(self, told: Tally) -> list[Event]:
        asked = self._helper("decide")
        if asked is None:
            agent = self._who_decides()
            if not agent:
                return self._unreached(told, "no coordinator is there to decide")
            payload = msgspec.Raw(b'{"input":%b}' % conflicts.question(told))
            return [self._ask("decide", (agent,), payload)]
        if not asked.ended:
            return []
        if asked.status != "done":
            return self._unreached(told, "the coordinator did not decide")
        answer = asked.output
        if asked.ballot is not None and bytes(asked.ballot.choice):
            answer = asked.ballot.choice
        for reading in (answer, asked.output):
            try:
                index = conflicts.chosen(told, bytes(reading), self._rules.equality)
            except conflicts.AnswerError:
                continue
            told = with_dissent(told, index)
            return [self._ended(told, "coordinator_decides", told.decision)]
        return self._unreached(told, "the coordinator named none of the choices")

    def _who_decides(self) -> str:
        """A coordinator of the team, else of the swarm, else hub or root."""
        agents = available(self._state, self._task.spec)
        team = [agent for agent in agents if agent.id in self._task.team]
        for agent in (*team, *agents):
            if agent.type == "coordinator":
                return agent.id
        return network(self._state).head if self._state.topology in _HEADED else ""

    def _person(self, told: Tally) -> list[Event]:
        if self._phase.status == "deciding" and any(
            one.kind == "vote" and one.phase == self._phase.name and one.group == str(self._group)
            for one in self._task.requests.values()
        ):
            return []
        key = f"{self._phase.name}.{self._task.asked + 1}"
        params = conflicts.person_question(told, self._task.spec.description)
        request = Request(
            kind="vote",
            request=msgspec.Raw(b'{"method":"elicitation/create","params":' + params + b"}"),
            phase=self._phase.name,
            group=str(self._group),
        )
        return [
            self._counted(VoteState(rounds=self._vote.rounds, method="human"), told),
            InputAsked(at=self._now, task=self._task.id, requests={key: request}),
        ]

    def _unreached(self, told: Tally, message: str) -> list[Event]:
        method = self._rules.conflict_resolution
        vote = VoteState(
            method=method,
            rounds=self._vote.rounds,
            tally=msgspec.Raw(msgspec.json.encode(told)),
            message=message,
            ended=True,
        )
        return [self._counted(vote, told)]

    def _ended(
        self, told: Tally, method: str, decision: msgspec.Raw, *, reached: bool = False
    ) -> Event:
        vote = VoteState(
            decision=decision,
            reached=reached,
            method=method,
            rounds=self._vote.rounds,
            early=told.early,
            tally=msgspec.Raw(msgspec.json.encode(told)),
            message="" if reached else f"the vote reached no decision ({told.reason})",
            ended=True,
        )
        return self._counted(vote, told)

    def _counted(self, vote: VoteState, told: Tally) -> Event:
        if not bytes(vote.tally):
            vote.tally = msgspec.Raw(msgspec.json.encode(told))
        agreed = conflicts.agreement(told) if vote.ended else {}
        return VoteCounted(
            at=self._now,
            task=self._task.id,
            phase=self._phase.name,
            group=str(self._group),
            vote=vote,
            agreed=tuple(name for name, right in agreed.items() if right),
            differed=tuple(name for name, right in agreed.items() if not right),
        )


_HEADED = ("star", "hierarchical")


def decided_by_person(
    task: TaskState, plan: PhasePlan, request: Request, answer: bytes, now_ms: int
) -> Event:
    """What a person's answer makes of a vote; an answer that names no choice leaves it undecided.

    Raises:
        AnswerError: it names none, and the person may try again.
    """
    vote = task.phases[request.phase].votes[request.group]
    told = msgspec.json.decode(bytes(vote.tally), type=Tally)
    rules = plan.vote or task.spec.coordination
    told = with_dissent(told, conflicts.chosen(told, answer, rules.equality))
    return VoteCounted(
        at=now_ms,
        task=task.id,
        phase=request.phase,
        group=request.group,
        vote=msgspec.structs.replace(
            vote,
            decision=told.decision,
            method="human",
            tally=msgspec.Raw(msgspec.json.encode(told)),
            ended=True,
        ),
    )
