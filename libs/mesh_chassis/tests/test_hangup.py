"""A closed terminal is told from a request to read the configuration again."""

import fcntl
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

CHILD = """
import signal, sys
from pathlib import Path
from mesh_chassis.hangup import HangUp

hang_up = HangUp()
out = Path(sys.argv[1])
seen = []

def told(*_):
    seen.append("gone" if hang_up.gone else "there")
    out.write_text(",".join(seen))

signal.signal(signal.SIGHUP, told)
signal.raise_signal(signal.SIGHUP)
print("armed", flush=True)
while len(seen) < 2:
    signal.pause()
"""


def own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_hang_up_of_a_process_whose_terminal_is_closed_means_that_it_shall_end(
    tmp_path: Path,
) -> None:
    out = tmp_path / "seen"
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out)],
        stdin=slave,
        stdout=subprocess.PIPE,
        preexec_fn=own_terminal,  # noqa: PLW1509 - nothing else runs here
    )
    os.close(slave)
    assert child.stdout is not None
    assert child.stdout.readline() == b"armed\n"
    os.close(master)
    assert child.wait(10) == 0
    child.stdout.close()
    assert out.read_text() == "there,gone"


def test_process_without_a_terminal_is_only_asked_to_read_again(tmp_path: Path) -> None:
    out = tmp_path / "seen"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"armed\n"
    child.send_signal(1)
    assert child.wait(10) == 0
    child.stdout.close()
    assert out.read_text() == "there,there"
