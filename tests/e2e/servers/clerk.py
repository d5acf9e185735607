"""Functions that agents of the mesh ``office`` run: they count, ask, write and take letters."""

import asyncio
import json
import os
from pathlib import Path

from mesh_agents.contract import Json, Letter, StepInput, StepOutput

FORM: dict[str, Json] = {
    "type": "object",
    "properties": {"colour": {"type": "string"}},
    "required": ["colour"],
}


async def work(step: StepInput) -> object:
    """Count rows and tell each, or ask for a colour."""
    given = step.payload["input"]
    assert isinstance(given, dict)
    if given["do"] == "count":
        rows = int(str(given["rows"]))
        for row in range(1, rows + 1):
            step.report(row, rows, f"row {row}")
            await asyncio.sleep(0.15)
        return {"rows": rows, "pid": os.getpid()}
    if "colour" in step.answers:
        answer = step.answers["colour"]
        assert isinstance(answer, dict)
        return {"painted": answer["content"], "with": step.state}
    params: Json = {"mode": "form", "message": "Which colour?", "requestedSchema": FORM}
    question: Json = {"method": "elicitation/create", "params": params}
    return StepOutput(requests={"colour": question}, state="a brush")


async def write(step: StepInput) -> str:
    """Write down what it is told."""
    for line in range(1, 5):
        step.report(line, 4, f"line {line}")
        await asyncio.sleep(0.3)
    return f"{os.getpid()} wrote: {step.payload['prompt']}"


def hear(letter: Letter) -> object:
    """Keep a letter in the file that it names."""
    params = letter.params
    assert isinstance(params, dict)
    Path(str(params["file"])).write_text(json.dumps({"text": params["text"], "pid": os.getpid()}))
    return {"pid": os.getpid(), "kept": params["text"]}
