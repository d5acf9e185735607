"""What a program needs to be started elsewhere, found on a disk."""

from pathlib import Path

import pytest

from mesh_chassis.sandbox.programs import find_program, scripts


def executable(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_program_of_the_system_needs_nothing():
    found = find_program("sh", search="/usr/bin:/bin")
    assert found is not None
    assert (found.paths, found.search) == ((), ())


def test_a_program_that_stands_alone_is_needed_itself(tmp_path):
    server = executable(tmp_path / "server")
    found = find_program("server", search=str(tmp_path))
    assert found is not None
    assert found.path == str(server)
    assert found.paths == (str(server),)
    assert found.search == (str(tmp_path),)


def test_a_script_needs_the_environment_of_its_interpreter_and_that_its_own(tmp_path):
    base = executable(tmp_path / "py" / "bin" / "python3")
    (tmp_path / "py" / "lib" / "python3.11").mkdir(parents=True)
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python").symlink_to(base)
    script = executable(tmp_path / "server", f"#!{venv}/bin/python -u\n")
    found = find_program(str(script), search="")
    assert found is not None
    assert found.paths == (str(script), str(venv), str(tmp_path / "py"))


def test_a_node_program_needs_the_modules_beside_it(tmp_path):
    modules = tmp_path / "node_modules"
    target = executable(modules / "server" / "cli.js", "#!/usr/bin/env node\n")
    (modules / ".bin").mkdir()
    (modules / ".bin" / "server").symlink_to(target)
    found = find_program("server", search=str(modules / ".bin"))
    assert found is not None
    assert found.paths == (str(modules),)


def test_links_in_a_ring_end(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert find_program(str(tmp_path / "a"), search="") is None


@pytest.mark.parametrize("command", ["no-such-program", "/no/such/program", "./nothing"])
def test_a_program_that_is_not_there_is_not_found(command, tmp_path):
    assert find_program(command, search=str(tmp_path), cwd=str(tmp_path)) is None


def test_only_arguments_that_name_a_file_outside_the_system_are_scripts(tmp_path):
    script = executable(tmp_path / "s.py")
    given = ("-m", str(script), "/usr/bin/sh", str(tmp_path), "/no/file", "x" * 9000, "")
    assert scripts(given, "/") == (str(script),)
    assert scripts(("s.py", "-s.py"), str(tmp_path)) == (str(script),)
