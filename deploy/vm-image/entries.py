"""The files of an image in memory, and the forms they are written in: always the same bytes."""

import io
import os
import stat
import tarfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["Entry", "Tree"]


class Entry(NamedTuple):
    """A file, a folder (``data`` empty) or a symbolic link (``data`` its target)."""

    mode: int
    data: bytes = b""


class Tree:
    """Paths without leading slash; parents are made."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def folder(self, path: str, mode: int = 0o755) -> None:
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) != ".":
                self.entries.setdefault(str(parent), Entry(stat.S_IFDIR | 0o755))
        self.entries[path] = Entry(stat.S_IFDIR | mode)

    def file(self, path: str, data: bytes, *, program: bool = False) -> None:
        self.folder(str(PurePosixPath(path).parent))
        self.entries[path] = Entry(stat.S_IFREG | (0o755 if program else 0o644), data)

    def link(self, path: str, target: str) -> None:
        if "/" in path:
            self.folder(str(PurePosixPath(path).parent))
        self.entries[path] = Entry(stat.S_IFLNK | 0o777, target.encode())

    @property
    def size(self) -> int:
        """Bytes unpacked, in pages as a file system in memory takes them."""
        return sum((len(one.data) + 4095) // 4096 * 4096 for one in self.entries.values())

    def cpio(self) -> bytes:
        """newc, sorted, all of root and of the year 1970."""
        out = io.BytesIO()
        for number, (path, entry) in enumerate(sorted(self.entries.items()), start=1):
            links = 2 if stat.S_ISDIR(entry.mode) else 1
            _cpio_entry(out, number, entry.mode, links, path, entry.data)
        _cpio_entry(out, 0, 0, 1, "TRAILER!!!", b"")
        out.write(b"\0" * (-out.tell() % 512))
        return out.getvalue()

    def tar(self) -> bytes:
        """For ``docker import``."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for path, entry in sorted(self.entries.items()):
                info = tarfile.TarInfo(path)
                info.mode = stat.S_IMODE(entry.mode)
                if stat.S_ISDIR(entry.mode):
                    info.type = tarfile.DIRTYPE
                    archive.addfile(info)
                elif stat.S_ISLNK(entry.mode):
                    info.type, info.linkname = tarfile.SYMTYPE, entry.data.decode()
                    archive.addfile(info)
                else:
                    info.size = len(entry.data)
                    archive.addfile(info, io.BytesIO(entry.data))
        return out.getvalue()

    def write(self, folder: Path) -> None:
        """As a plain directory, which must be empty or absent."""
        folder.mkdir(parents=True, exist_ok=True)
        for path, entry in sorted(self.entries.items()):
            target = folder / path
            if stat.S_ISDIR(entry.mode):
                target.mkdir(exist_ok=True)
            elif stat.S_ISLNK(entry.mode):
                target.symlink_to(entry.data.decode())
                continue
            else:
                target.write_bytes(entry.data)
            target.chmod(stat.S_IMODE(entry.mode))

    @classmethod
    def read(cls, folder: Path) -> "Tree":
        """Back from a plain directory."""
        tree = cls()
        for base, folders, files in os.walk(folder):
            at = Path(base)
            for name in (*folders, *files):
                path = at / name
                inside = str(path.relative_to(folder))
                if path.is_symlink():
                    tree.link(inside, str(path.readlink()))
                elif path.is_dir():
                    tree.folder(inside, stat.S_IMODE(path.stat().st_mode))
                else:
                    program = bool(path.stat().st_mode & 0o100)
                    tree.file(inside, path.read_bytes(), program=program)
        return tree


def _cpio_entry(
    out: io.BytesIO, number: int, mode: int, links: int, path: str, data: bytes
) -> None:
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
    out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
    out.write(b"\0" * (-out.tell() % 4))
    out.write(data)
    out.write(b"\0" * (-out.tell() % 4))
