"""Runs one example as it stands in its folder: a mesh of its own, the agents, then the demo.

``make example NAME=orchestrator``: ``mesh up`` on free ports in a temporary folder with the
``mesh.toml`` of the example, every program of its ``agents/``, and its ``demo.py``, whose exit code
is that of the run.
Whatever happens, everything that was started is stopped and the folder removed.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).parent
MESH = Path(sys.executable).with_name("mesh")
START_S = 60.0
LISTED_S = 20.0
STOP_S = 30.0
DEMO_S = 120.0
PLAIN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("MESH_", "MCP_", "NATS_", "AGENT_MESH_"))
}


def main() -> int:
    """Run the example that the command line names."""
    names = sorted(path.parent.name for path in HERE.glob("*/demo.py"))
    if len(sys.argv) == 1:
        sys.stdout.writelines(f"make example NAME={name}\n" for name in names)
        return 0
    if len(sys.argv) != 2 or sys.argv[1] not in names:
        sys.stderr.write(f"usage: make example NAME=…, one of: {', '.join(names)}\n")
        return 2
    # Ctrl-C, and a supervisor's SIGTERM, unwind like any other end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    example = HERE / sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="mesh-example-") as folder, ExitStack() as stack:
        room = Path(folder)
        env = {
            **PLAIN,
            "MESH_STATE": str(room / ".mesh"),
            "MESH_LEAFNODES_PORT": str(free_port()),  # over that of a mesh.toml that has one
            "EXAMPLE_ROOM": str(room),  # for a mesh.toml that gives agents this folder
            "PYTHONUNBUFFERED": "1",
        }
        say(f"starting a mesh for {example.name}")
        stack.enter_context(mesh(example, room, env))
        for agent in sorted(example.glob("agents/*.py")):
            stack.enter_context(program([sys.executable, str(agent)], room, env, "is ready"))
            say(f"agent {agent.stem} runs")
        await_listed([agent.stem for agent in example.glob("agents/*.py")], env)
        try:
            demo = [sys.executable, str(example / "demo.py")]
            code = subprocess.run(demo, cwd=room, env=env, timeout=DEMO_S, check=False).returncode
        except subprocess.TimeoutExpired:
            code = 1
        if code:
            for log in sorted([*room.glob("*.log"), *room.glob(".mesh/logs/*.log")]):
                lines = log.read_text(errors="replace").splitlines()[-15:]
                sys.stderr.write("\n".join([f"--- {log.name}", *lines, ""]))
        say("stopping")
    say("done" if code == 0 else f"failed with exit code {code}")
    return code


def await_listed(names: list[str], env: Mapping[str, str]) -> None:
    """Wait until the registry knows the agents: it hears of them a moment after they run."""
    until = time.monotonic() + LISTED_S
    while names:
        command = [str(MESH), "server", "list", "--json", "--state", env["MESH_STATE"]]
        listed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if all(f'"{name}"' in listed.stdout for name in names):
            return
        if time.monotonic() > until:
            raise SystemExit(f"not listed: {names}\n{listed.stdout}{listed.stderr}")
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def say(text: str) -> None:
    """One line about the run, apart from what the demo prints."""
    sys.stdout.write(f"[run] {text}\n")
    sys.stdout.flush()


@contextmanager
def mesh(example: Path, room: Path, env: Mapping[str, str]) -> Generator[None, None, None]:
    """``mesh up`` until the end of the block."""
    ports = ["--http-port", "0", "--tcp-port", "0", "--nats-port", "0"]
    config = example / "mesh.toml"
    named = ["--config", str(config)] if config.exists() else []
    command = [str(MESH), "up", "--no-sample", "--state", env["MESH_STATE"], *ports, *named]
    with program(command, room, env, "ready", stop=signal.SIGINT, whole_line=True):
        yield


@contextmanager
def program(
    command: list[str],
    room: Path,
    env: Mapping[str, str],
    sign: str,
    *,
    stop: signal.Signals = signal.SIGTERM,
    whole_line: bool = False,
) -> Generator[None, None, None]:
    """A program until the end of the block; entered when it has written ``sign``."""
    name = Path(command[1]).stem if command[1].endswith(".py") else Path(command[0]).name
    log = room / f"{name}.log"
    # A session of its own: ctrl-C reaches this program only, which then stops the others in order.
    child = subprocess.Popen(
        command, cwd=room, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    ready = threading.Event()

    def read() -> None:
        assert child.stdout is not None
        with log.open("w") as file:
            for line in child.stdout:
                file.write(line)
                file.flush()
                if (line.strip() == sign) if whole_line else (sign in line):
                    ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        until = time.monotonic() + START_S
        while not ready.wait(0.05):
            if child.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{name} did not start:\n{log.read_text()}")
        yield
    finally:
        if child.poll() is None:
            child.send_signal(stop)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        reader.join(5)


if __name__ == "__main__":
    sys.exit(main())
