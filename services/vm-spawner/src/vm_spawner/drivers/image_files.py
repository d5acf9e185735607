"""Is an image what its name says? Kernel and initramfs are looked at before they are booted."""

import hashlib
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from vm_spawner.drivers.machine import Image

__all__ = ["BOOTED", "ImageCheck"]

BOOTED = ("kernel", "initrd")
"""Files of an image that a machine monitor reads."""
_DESCRIPTION = "image.json"


class _File(msgspec.Struct, rename="camel"):
    sha256: str


class _Description(msgspec.Struct, rename="camel"):
    digest: str
    files: dict[str, _File]


class ImageCheck:
    """Digests of images, computed again only when a file changed."""

    def __init__(self) -> None:
        self._good: dict[str, tuple[int, ...]] = {}

    def check(self, image: Image) -> None:
        """Read the files; takes 0.2 s the first time, so not on the event loop.

        Raises:
            MeshError: ``params``, phase ``image``: a file is missing or another one.
        """
        folder = Path(image.directory)
        try:
            stamp = tuple((folder / name).stat().st_mtime_ns for name in (_DESCRIPTION, *BOOTED))
            if self._good.get(image.digest) == stamp:
                return
            problem = _problem(folder, image.digest)
        except (OSError, msgspec.DecodeError) as error:
            stamp, problem = (), f"cannot be read: {type(error).__name__}"
        if problem:
            self._good.pop(image.digest, None)
            raise MeshError(
                ErrorKind.PARAMS,
                f"image {image.digest[:19]}… {problem}",
                data={"phase": "image"},
            )
        self._good[image.digest] = stamp


def _problem(folder: Path, digest: str) -> str:
    about = msgspec.json.decode((folder / _DESCRIPTION).read_bytes(), type=_Description)
    listed = "".join(f"{name} {one.sha256}\n" for name, one in sorted(about.files.items()))
    if digest != about.digest or digest != f"sha256:{_sha256(listed.encode())}":
        return "is not what image.json describes"
    for name in BOOTED:
        if name not in about.files:
            return f"has no {name}"
        if _sha256((folder / name).read_bytes()) != about.files[name].sha256:
            return f"has another {name} than it was built with"
    return ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
