"""What the guide shows is what the types take."""

import re
from pathlib import Path

import msgspec
import pytest

from mesh_agents.types import TYPES
from mesh_agents.types.analyst import Rows
from mesh_agents.types.coder import CodeWork
from mesh_agents.types.inspection import Inspection
from mesh_agents.types.researcher import Query
from mesh_agents.types.tester import TestWork
from mesh_agents.types.validator import Validation

GUIDE = Path(__file__).parents[4] / "docs" / "guides" / "agent-types.md"
INPUTS = {
    "analyst": Rows, "coder": CodeWork, "researcher": Query, "reviewer": Inspection,
    "tester": TestWork, "validator": Validation,
}  # fmt: skip
PHASES = [
    msgspec.json.decode(block)
    for block in re.findall(r"```json\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
]


@pytest.mark.parametrize("phase", PHASES, ids=[phase["name"] for phase in PHASES])
def test_example_of_the_guide_is_taken(phase: dict) -> None:
    (agent,) = phase["agents"]
    msgspec.convert(phase["input"], INPUTS[agent])


def test_guide_has_every_type() -> None:
    titles = re.findall(r"^## (.*)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert {name for title in titles for name in title.split(", ")} == set(TYPES)
    assert {phase["agents"][0] for phase in PHASES} == set(INPUTS)
