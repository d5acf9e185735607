"""The images of this host: folders that ``make vm-image`` filled."""

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from vm_spawner.config import ImageEntry
from vm_spawner.drivers.machine import Image

__all__ = ["ImageShelf"]

_log = logging.getLogger(__name__)


class _Description(msgspec.Struct, rename="camel"):
    """``image.json``, as far as it is read here."""

    digest: str
    memory_min_mib: int = 0


class ImageShelf:
    """Finds images by name or digest.

    Args:
        entries: of the host's file; a folder without a readable ``image.json`` is left out and
            said so.
    """

    def __init__(self, entries: Iterable[ImageEntry]) -> None:
        self._images: dict[str, Image] = {}
        for entry in entries:
            path = Path(entry.directory)
            try:
                about = msgspec.json.decode((path / "image.json").read_bytes(), type=_Description)
            except (OSError, msgspec.DecodeError) as error:
                _log.error("image %s cannot be used: %s", entry.name, error)
                continue
            image = Image(
                digest=about.digest,
                directory=str(path.absolute()),
                memory_min_mib=about.memory_min_mib,
            )
            self._images[entry.name] = image
            self._images[about.digest] = image

    @property
    def all(self) -> tuple[Image, ...]:
        """Every image once, in the order of the file."""
        return tuple({image.digest: image for image in self._images.values()}.values())

    def find(self, name: str) -> Image | None:
        """By name or digest; None = there is no such image."""
        return self._images.get(name)
