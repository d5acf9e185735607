"""The line that says why."""

from pathlib import Path

from mesh_cli.last_words import last_words, tail


def test_tail_is_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(str(number) for number in range(100)))

    assert tail(log, 2) == "    98\n    99"
    assert tail(tmp_path / "none") == ""


def test_newest_error_counts_with_the_last_line_of_its_traceback(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '{"level":"error","msg":"old"}\n'
        '{"level":"error","msg":"cannot start","error":"Traceback\\n  File\\nKeyError: 1"}\n'
        '{"level":"info","msg":"stopped"}\n'
    )

    assert last_words(log) == "cannot start: KeyError: 1"


def test_log_that_is_no_json_gives_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\nModuleNotFoundError: x\n\n")

    assert last_words(log) == "ModuleNotFoundError: x"
    assert last_words(tmp_path / "none") == ""
