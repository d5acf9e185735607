"""The live view: what it shows, and that rates come from two looks."""

import io

import msgspec
from rich.console import Console

from mesh_cli.swarms.reading import Agent, Links, Metrics, Progress, Stats, Status, Task, Tasks
from mesh_cli.swarms.screen import Sample, frame, rates


def status(done: int, sent: int, **members: object) -> Status:
    made = Status(
        swarm_id="swarm_1",
        name="review",
        topology="ring",
        status="active",
        owner="swarm-1",
        sequence=10 * done,
        agents=(
            Agent(
                id="a", type="tester", status="busy", name="anna", health=97.5, load=2, slots=8,
                current_task="task_1", stats=Stats(completed=done, failed=1),
            ),
            Agent(id="b", type="coder", status="lost"),
        ),
        metrics=Metrics(tasks_completed=done // 10, in_flight=2, queued=5),
        links=Links(count=2, adjacency={"a": ("b",)}, messages={"a>b": sent, "b>a": 0}),
    )  # fmt: skip
    return msgspec.structs.replace(made, **members)


TASKS = Tasks(
    tasks=(
        Task(
            task_id="task_1", status="running", description="look at it", priority="high",
            progress=Progress(done=3, total=None),
            created_at="2026-11-21T10:00:00.000Z", updated_at="2026-11-21T10:00:01.500Z",
        ),
    )
)  # fmt: skip


def shown(before: Sample | None, now: Sample, tasks: Tasks = TASKS, *, wide: int = 140) -> str:
    console = Console(file=io.StringIO(), width=wide, no_color=True, highlight=False)
    console.print(frame(before, now, tasks))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rates_need_two_looks_and_count_what_happened_between() -> None:
    first, second = (10.0, status(100, 5)), (12.0, status(300, 9))
    assert rates(None, first) == {}
    assert rates(first, second) == {"steps": 100.0, "tasks": 10.0, "messages": 2.0, "log": 1000.0}
    assert rates(second, second) == {}
    # A new owner may know less: nothing runs backwards.
    assert set(rates((10.0, status(300, 9)), (12.0, status(100, 5))).values()) == {0.0}


def test_view_has_agents_tasks_links_and_rates() -> None:
    text = shown((10.0, status(100, 5)), (12.0, status(300, 9)))
    for part in (
        "review  ring  active  owner swarm-1",
        "running 2  queued 5",
        "steps 100.0/s",
        "2/8",
        "3/?",
        "1.5s",
        "look at it",
        "+4",
    ):
        assert part in text, part
    rows = [row.split() for row in text.splitlines()]
    assert ["anna", "tester", "busy", "98", "2/8", "300", "1", "task_1"] in rows
    assert ["coder", "coder", "lost", "-", "-", "-", "-"] in rows


def test_unknown_figures_are_dashes_and_never_zeros() -> None:
    text = shown(None, (1.0, status(0, 0)), Tasks())
    assert "success -" in text
    assert "mean -" in text
    assert "rates after the next look" in text
    assert "FROM" not in text


def test_narrow_terminal_shortens_and_names_cannot_steer_it() -> None:
    agent = Agent(id="a", type="x", status="active", name="[bold red]\x1b[2J\nname" + "y" * 300)
    text = shown(None, (1.0, status(0, 0, agents=(agent,), name="\x1b]0;t\x07")), Tasks(), wide=60)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold red]" in text
    assert all(len(row) <= 60 for row in text.splitlines())


def test_what_agents_tell_of_their_steps_is_shown_beside_the_task() -> None:
    def told(message: str, state: str = "running") -> str:
        task = msgspec.structs.replace(TASKS.tasks[0], message=message, status=state)
        return shown(None, (1.0, status(0, 0)), Tasks(tasks=(task,)))

    assert "lint-3: 12/40 files" in told("running: 3 of 9 steps; lint-3: 12/40 files")
    assert "of 9 steps" not in told("running: 3 of 9 steps")
    assert "the vote reached no decision" in told("the vote reached no decision", "failed")
