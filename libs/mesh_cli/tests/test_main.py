"""The command line as a whole: help, exit codes, speed."""

import subprocess
import sys
import time
from importlib import import_module

import click
import pytest

from mesh_cli.failure import Exit
from mesh_cli.main import _COMMANDS, run


def test_every_command_of_the_table_exists() -> None:
    for name, (module, _) in _COMMANDS.items():
        command = import_module(f"mesh_cli.commands.{module}").command
        assert isinstance(command, click.Command), name


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == Exit.OK

    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in _COMMANDS if name != "service")


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == Exit.OK
    assert "Usage: mesh" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["nonsense"], ["req"], ["kv", "get"], ["up", "--gateways", "0"]])
def test_wrong_command_line_exits_with_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == Exit.USAGE
    assert "mesh" in capsys.readouterr().err


def test_help_loads_no_bus_and_is_fast() -> None:
    code = (
        "import sys\n"
        "from mesh_cli.main import run\n"
        "run(['--help'])\n"
        "sys.exit(any(name in sys.modules for name in ('nats', 'asyncio', 'mesh_chassis')))\n"
    )
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        best = min(best, time.perf_counter() - began)
        assert done.returncode == 0, "mesh --help imports the bus"

    # 0.04 s on an idle machine; the bound leaves room for a busy one.
    assert best < 0.3


def test_python_module_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mesh_cli", "--version"], capture_output=True, check=False
    )

    assert done.returncode == 0
    assert done.stdout.startswith(b"mesh")
