"""Gives the orchestrator four tasks; it was told of no agent."""

import asyncio

from mesh_sdk import Client, Progress, ToolResult

TASKS = [
    ("What will the weather be tomorrow?", {"city": "Rome"}),
    ("convert money to another currency", {"amount": 100, "currency": "EUR", "into": "USD"}),
    ("how many words has this text", {"text": "the quick brown fox"}),
    ("book a flight to the moon", {"seats": 2}),
]


def show(step: Progress) -> None:
    """One line of progress."""
    print(f"  {step.progress:.0f}/{step.total:.0f} {step.message}")


async def main() -> None:
    """Ask, and check who answered."""
    answers: list[ToolResult] = []
    async with Client() as client:
        for task, details in TASKS:
            print(f"task: {task}")
            arguments = {"task": task, "details": details}
            result = await client.call_tool("orchestrator", "delegate", arguments, progress=show)
            print(f"  => {result.text if result.is_error else result.structured}")
            answers.append(result)
    weather, money, words, flight = answers
    assert weather.structured["agent"] == "weather"
    assert money.structured["answer"] == {"amount": 110.0, "currency": "USD"}
    assert words.structured["answer"]["words"] == 4
    assert flight.is_error
    print("ok: three tasks done by three agents, the fourth refused with a reason")


asyncio.run(main())
