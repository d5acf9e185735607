"""Steps as the worker makes them, over folders of the test."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from mesh_agents.contract import AgentType, Json, StepInput, StepKind, StepOutput, Tools
from mesh_agents.types import TYPES
from mesh_agents.types.places import ROOTS_VARIABLE

Do = Callable[..., dict[str, Json]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder that the host gives."""
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setenv(ROOTS_VARIABLE, str(folder))
    return folder


@pytest.fixture
def output_of(tmp_path: Path) -> Callable[..., StepOutput]:
    """Runs a step of a type."""
    made = 0

    def run(
        name: str,
        given: Json = None,
        *,
        kind: StepKind = "call",
        prompt: str = "",
        config: Mapping[str, Json] | None = None,
        timeout_s: float = 50.0,
        tools: Tools | None = None,
        agent: str = "agent_1",
    ) -> StepOutput:
        nonlocal made
        made += 1
        workdir = tmp_path / f"work-{made}"
        workdir.mkdir()
        payload: dict[str, Json] = {"input": given}
        if prompt:
            payload["prompt"] = prompt
        one: AgentType = TYPES[name]
        assert kind in one.kinds
        step = StepInput(
            kind=kind, payload=payload, workdir=str(workdir), config=dict(config or {}),
            timeout_s=timeout_s, tools=tools, agent=agent,
        )  # fmt: skip
        found = one.run(step)
        assert isinstance(found, StepOutput)
        return found

    return run


@pytest.fixture
def do(output_of: Callable[..., StepOutput]) -> Do:
    """Runs a step of a type; its structured output as JSON has it."""

    def run(name: str, given: Json = None, **more: object) -> dict[str, Json]:
        output = output_of(name, given, **more)
        return msgspec.json.decode(msgspec.json.encode(output.structured))

    return run
