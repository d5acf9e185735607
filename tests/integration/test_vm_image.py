"""The image of machines: built from the host's packages, always the same, and holding no secret."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("kernel", "initrd", "root.tar", "image.json")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def build(folder: Path, packages: Path, umask: int, zone: str) -> Path:
    subprocess.run(
        [
            sys.executable, ROOT / "deploy" / "vm-image" / "build.py",
            "--output", folder, "--packages", packages,
        ],
        check=True,
        umask=umask,
        env={**os.environ, "TZ": zone},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("images")
    kept = ROOT / "build" / "vm-packages"
    packages = kept if kept.is_dir() else folder / "packages"
    first = build(folder / "one", packages, 0o022, "UTC")
    return first, build(folder / "a-longer-name" / "two", packages, 0o077, "Asia/Tokyo")


def test_two_builds_are_equal_bit_for_bit(images: tuple[Path, Path]) -> None:
    first, second = images
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_an_image_holds_nothing_of_the_machine_that_built_it(images: tuple[Path, Path]) -> None:
    packed = (images[0] / "root.tar").read_bytes()
    for trace in (str(ROOT), str(images[0]), sys.prefix):
        assert trace.encode() not in packed, trace
    with tarfile.open(images[0] / "root.tar") as archive:
        members = archive.getmembers()
    assert {(one.uid, one.gid, one.mtime) for one in members} == {(0, 0, 0)}
    assert not [one.name for one in members if one.mode & 0o6002 and not one.issym()]
    assert not [one.name for one in members if one.ischr() or one.isblk()]
    # No tool that a program inside could use to load or mount something as root.
    programs = {one.name for one in members if one.name.startswith("usr/bin/")}
    about = json.loads((images[0] / "image.json").read_bytes())
    assert programs == {"usr/bin/busybox", "usr/bin/sh", "usr/bin/python3",
                        f"usr/bin/{about['python']}"}  # fmt: skip


def test_an_image_says_what_it_is_made_of(images: tuple[Path, Path]) -> None:
    about = json.loads((images[0] / "image.json").read_bytes())
    assert about["digest"].startswith("sha256:")
    assert about["memoryMinMib"] <= 256  # what a machine has that names nothing
    assert any(name.startswith("linux-image-") for name in about["packages"])
    for name, one in about["files"].items():
        assert (images[0] / name).stat().st_size == one["bytes"]
