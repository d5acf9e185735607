"""Where a step may look, and where not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh_agents.contract import StepFailedError, StepInput
from mesh_agents.types import places
from mesh_agents.types.places import Found, Roots, read_bytes, roots_of, walk


def _step(config: dict | None = None) -> StepInput:
    return StepInput(kind="call", payload={}, workdir="/", config=config or {})


@pytest.mark.parametrize("path", ["../secret.txt", "link.txt", "sub/out/secret.txt", "SECRET"])
def test_roots_refuse_what_leads_out(root: Path, path: str) -> None:
    secret = root.parent / "secret.txt"
    secret.write_text("x")
    (root / "sub").mkdir()
    (root / "link.txt").symlink_to(secret)
    (root / "sub" / "out").symlink_to(root.parent)
    path = str(secret) if path == "SECRET" else path
    with pytest.raises(StepFailedError, match="not inside the given roots") as refused:
        roots_of(_step()).find(path)
    assert refused.value.type == "input"
    assert not refused.value.retryable


def test_roots_say_the_same_of_what_is_outside_and_of_what_is_nowhere(root: Path) -> None:
    (root.parent / "there").write_text("x")
    said = []
    for name in ("../there", "../nowhere"):
        with pytest.raises(StepFailedError) as refused:
            roots_of(_step()).find(name)
        said.append(refused.value.message.replace(name, "…"))
    assert said[0] == said[1]


def test_roots_take_a_link_that_stays_inside(root: Path) -> None:
    (root / "a.txt").write_text("x")
    (root / "b.txt").symlink_to(root / "a.txt")
    assert roots_of(_step()).find("b.txt").name == "a.txt"


def test_host_without_roots_gives_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(places.ROOTS_VARIABLE, raising=False)
    with pytest.raises(StepFailedError, match="gives its agents no folders"):
        roots_of(_step())


def test_config_narrows_the_roots_of_the_host_and_never_widens_them(root: Path) -> None:
    (root / "in").mkdir()
    (root / "a.txt").write_text("x")
    narrowed = roots_of(_step({"roots": ["in"]}))
    with pytest.raises(StepFailedError):
        narrowed.find(str(root / "a.txt"))
    for wider in ([str(root.parent)], ["/"], [], "in", [1]):
        with pytest.raises(StepFailedError):
            roots_of(_step({"roots": wider}))


def test_walk_is_sorted_follows_no_links_and_leaves_out_folders_of_tools(root: Path) -> None:
    for name in ("b.py", "a.py", ".git/x.py", "__pycache__/y.py", "pkg/c.py", "d.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    (root / "loop").symlink_to(root)
    (root / "linked.py").symlink_to(root / "a.py")
    roots = Roots([root])
    assert [one.name for one in walk(roots, suffixes=(".py",))] == ["a.py", "b.py", "pkg/c.py"]
    assert [one.name for one in walk(roots, ["d.txt"], suffixes=(".py",))] == ["d.txt"]
    with pytest.raises(StepFailedError, match="more than 2 files") as refused:
        walk(roots, files_max=2)
    assert refused.value.type == "limit"


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_only_regular_files_are_opened_and_nothing_hangs(root: Path, kind: str) -> None:
    path = root / "odd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/hostname")
    else:
        path.mkdir()
    with pytest.raises(OSError, match=r"not a regular file|symbolic links|Is a directory"):
        read_bytes(Found("odd", path))


def test_file_whose_folder_became_a_link_is_not_read(
    root: Path, output_of: Callable[..., object]
) -> None:
    inside, outside = root / "sub", root.parent / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.txt").write_text(folder.name)
    found = Roots([root]).find("sub/a.txt")
    inside.rename(root / "moved")
    inside.symlink_to(outside)
    with pytest.raises(OSError, match="moved"):
        read_bytes(found)
