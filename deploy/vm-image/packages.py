"""Debian packages through the host's own apt: its sources, its keys, its proxy; no root needed."""

import hashlib
import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["closure", "download", "files_of", "kernel_package"]

_DEPENDS = (
    "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks",
    "--no-replaces", "--no-enhances",
)  # fmt: skip


def closure(roots: Sequence[str]) -> list[str]:
    """The packages and every library they depend on."""
    said = _run("apt-cache", "depends", *_DEPENDS, *roots)
    found = {line for line in said.splitlines() if line and line[0] not in " <"}
    libraries = {name for name in found if name.startswith(("lib", "zlib"))}
    return sorted({name for name in libraries if not re.search(":|perl", name)} | set(roots))


def kernel_package(meta: str) -> str:
    """The kernel that a meta package such as ``linux-image-cloud-amd64`` stands for."""
    said = _run("apt-cache", "show", "--no-all-versions", meta)
    found = re.search(r"^Depends:.*?\b(linux-image-[^\s,(]+)", said, re.MULTILINE)
    if found is None:
        raise SystemExit(f"apt knows no kernel for {meta}; run: apt-get update")
    return found[1]


def download(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Fetch packages; those that are there with the right digest are kept.

    Returns:
        Name -> file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {}
    for line in _run("apt-get", "download", "--print-uris", *names).splitlines():
        parts = shlex.split(line)
        if len(parts) >= 4:
            wanted[parts[1].partition("_")[0]] = (folder / parts[1], parts[3])
    missing = [name for name, (path, digest) in wanted.items() if not _is(path, digest)]
    if missing:
        _run("apt-get", "download", "-q", *missing, folder=folder)
    wrong = [name for name, (path, digest) in wanted.items() if not _is(path, digest)]
    if wrong or len(wanted) < len(set(names)):
        lacking = wrong or sorted(set(names) - set(wanted))
        raise SystemExit(f"apt does not give {', '.join(lacking)}; run: apt-get update")
    return {name: path for name, (path, _) in wanted.items()}


def files_of(package: Path) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """Path, description and bytes of each file of a package."""
    packed = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", package], check=True, stdout=subprocess.PIPE
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for info in archive:
            content = archive.extractfile(info) if info.isreg() else None
            yield info.name.removeprefix("./"), info, content.read() if content else b""


def _is(path: Path, digest: str) -> bool:
    algorithm, _, expected = digest.partition(":")
    if not path.is_file():
        return False
    return hashlib.new(algorithm.lower(), path.read_bytes()).hexdigest() == expected


def _run(*command: str, folder: Path | None = None) -> str:
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=folder
        ).stdout
    except FileNotFoundError:
        raise SystemExit(
            f"{command[0]} is not here: an image is built on Debian or Ubuntu"
        ) from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SystemExit(f"{' '.join(command[:2])}: {last}") from None
