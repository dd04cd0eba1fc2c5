"""The images of a job as one zip, sorted into folders by label: written while it is sent, a pack at a time.

The zip is streamed without a temporary file. JPEGs do not shrink, so images are stored and not compressed. Each entry
is complete before it is sent, so its header has its size, and clients that read a zip as a stream can read this one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import groupby
from typing import Final
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from core.jobs.models import ImageRecord
from services.errors import NotFoundError
from web_tier.results.export import UniqueNames, safe_name
from web_tier.results.query import ImageResult, ImageState

MISSING: Final = "missing.txt"
"""File of the zip that names the images that are no longer stored."""

FOLDERS: Final[dict[ImageState, str]] = {"failed": "_failed", "waiting": "_waiting", "done": "_unsure"}
"""Folders of images for which the folder function returns None, by state."""

PIECE_BYTES: Final = 262_144
"""Bytes that are sent at a time: a client must receive each within `web_tier.http.slow_clients.ANSWER_SECONDS`."""

_READABLE: Final = 0o644 << 16
_MISSING_TEXT: Final = "These images are no longer stored:\r\n\r\n"

FolderOf = Callable[[ImageResult], str | None]
"""Returns the name of an image's folder, in any text, or None for the folder of its state."""

ReadImages = Callable[[Sequence[ImageRecord]], Sequence[bytes]]
"""Returns images of one pack."""


def label_of(result: ImageResult) -> str | None:
    """Return the label of an image; None if it is unsure."""
    return result.response.label if result.response and not result.is_unsure else None


def truth_of(result: ImageResult) -> str | None:
    """Return the true label of an image."""
    return result.truth.label if result.truth else None


def zip_parts(results: Iterable[ImageResult], read: ReadImages, folder_of: FolderOf = label_of) -> Iterator[bytes]:
    """Yield a zip of the stored images of `results`.

    An image is at `FOLDER/NAME`, where NAME is the last part of its file name; equal names get numbers. An image that
    `read` does not find is named in `missing.txt`.

    Args:
        results: in the order of the zip.
        read: returns images of one pack; its `NotFoundError` means that they are not stored.
        folder_of: returns the folder of an image.
    """
    window, folders, missing = _Window(), _Folders(), list[str]()
    with ZipFile(window, "w", ZIP_STORED) as archive:
        for _, pack in groupby(results, key=lambda result: result.record.pack_id):
            images = [(folders.path(result, folder_of(result)), result.record) for result in pack]
            try:
                files = read([record for _, record in images])
            except NotFoundError:
                missing += (path for path, _ in images)
                continue
            for (path, record), data in zip(images, files, strict=True):
                archive.writestr(_entry(path, record), data)
                yield from window.drain()
        if missing:
            archive.writestr(MISSING, _MISSING_TEXT + "".join(f"{path}\r\n" for path in missing))
    yield from window.drain()


def _entry(path: str, record: ImageRecord) -> ZipInfo:
    moment = record.accepted_at
    entry = ZipInfo(path, (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second))
    entry.external_attr = _READABLE
    return entry


class _Folders:
    """The paths of a zip; each is used once."""

    def __init__(self) -> None:
        self._names = UniqueNames(MISSING, *FOLDERS.values())
        self._folders: dict[str, str] = {}
        self._files: dict[str, UniqueNames] = {}

    def path(self, result: ImageResult, folder: str | None) -> str:
        if folder is None:
            name = FOLDERS[result.state]
        elif folder in self._folders:
            name = self._folders[folder]
        else:
            name = self._folders[folder] = self._names.add(safe_name(folder))
        file_name = safe_name(result.record.filename.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])
        return f"{name}/{self._files.setdefault(name, UniqueNames()).add(file_name)}"


class _Window(BytesIO):
    """A file for a `ZipFile` that holds only what has not been drained, but counts positions from the beginning.

    A `ZipFile` goes back only to the header of its last entry, which is in the window until that entry is complete.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before = 0

    def tell(self) -> int:
        return self._before + super().tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._before + super().seek(offset - self._before if whence == 0 else offset, whence)

    def drain(self) -> Iterator[bytes]:
        """Yield the content of the window in pieces, and empty it."""
        content = self.getvalue()
        self._before += len(content)
        super().seek(0)
        self.truncate()
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]
