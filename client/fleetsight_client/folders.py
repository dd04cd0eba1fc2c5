"""The image files of folders, found one by one, with an honest count of what is left out."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from fleetsight_client.api import FleetsightClientError
from fleetsight_client.media_types import MARKED_BYTES, SUFFIXES, media_type
from fleetsight_client.systems import SYSTEM_FOLDERS, extended_path, length_of_root

MAX_EXAMPLES: Final = 3
"""Files and folders that are named for each reason to leave them out."""

MAX_DEPTH: Final = 200
"""Folders in folders; each level keeps one of them open."""


MISSING_SIZE: Final = -1
"""The size of a file that a list names and that does not exist."""


class SkipReason(StrEnum):
    """Why a file or folder is not classified."""

    HIDDEN = "hidden"
    NOT_AN_IMAGE = "not an image by name"
    LINKED_FOLDER = "link to a folder"
    UNREADABLE = "not readable"
    SPECIAL = "no regular file"
    OWN = "written by this command"
    TOO_DEEP = "too many folders deep"


class FolderError(FleetsightClientError):
    """Raised when the folders cannot be classified together; the message says which."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An image file: `root` is the index of its folder, `path` relative to it as the system's bytes."""

    root: int
    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int = 0
    """When its inode was changed: a new content changes it, but also a new name, mode or link."""


@dataclass
class FolderWalk:
    """Finds the images in folders and below; nothing is kept in memory but a folder for each level.

    A link to a file counts as the file. A link to a folder is not followed, so that no loop is walked for ever.

    Attributes:
        folders: to search, absolute.
        own: files and folders that the command writes.
        skipped: number of files and folders left out, by reason.
        examples: paths of the first ones of each reason, but for those that are hidden.
    """

    folders: Sequence[Path]
    own: Sequence[Path] = ()
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    examples: dict[SkipReason, list[str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[FoundFile]:
        """Yield the images in no order, each once."""
        self.skipped.clear()
        self.examples.clear()
        own = {identity for path in self.own if (identity := _identity(path)) is not None}
        for root, folder in enumerate(self.folders):
            yield from self._walk(root, os.fsencode(folder), own)

    def _walk(self, root: int, folder: bytes, own: set[tuple[int, int]]) -> Iterator[FoundFile]:
        start = length_of_root(folder)
        levels: list[Any] = []
        self._enter(folder, levels)
        try:
            while levels:
                try:
                    entry = next(levels[-1], None)
                except OSError:
                    self._skip(SkipReason.UNREADABLE, folder)
                    entry = None
                if entry is None:
                    levels.pop().close()
                elif (reason := self._reason_to_skip(entry, own)) is not None:
                    self._skip(reason, entry.path)
                elif not entry.is_dir(follow_symlinks=False):
                    found = entry.stat()
                    yield FoundFile(root, entry.path[start:], found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                elif len(levels) == MAX_DEPTH:
                    self._skip(SkipReason.TOO_DEEP, entry.path)
                else:
                    self._enter(entry.path, levels)
        finally:
            for level in levels:
                level.close()

    def _enter(self, folder: bytes, levels: list[Any]) -> None:
        try:
            levels.append(os.scandir(folder))
        except OSError:
            self._skip(SkipReason.UNREADABLE, folder)

    def _skip(self, reason: SkipReason, path: bytes) -> None:
        self.skipped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if reason is not SkipReason.HIDDEN and len(examples) < MAX_EXAMPLES:
            examples.append(os.fsdecode(path))

    def _reason_to_skip(self, entry: "os.DirEntry[bytes]", own: set[tuple[int, int]]) -> SkipReason | None:
        if entry.name.startswith(b".") or os.fsdecode(entry.name).lower() in SYSTEM_FOLDERS:
            return SkipReason.HIDDEN
        try:
            found = entry.stat()
        except OSError:  # also a link to nothing, and a loop of links
            return SkipReason.UNREADABLE
        if (found.st_dev, found.st_ino) in own:
            return SkipReason.OWN
        if stat.S_ISDIR(found.st_mode):
            return SkipReason.LINKED_FOLDER if entry.is_symlink() else None
        if not stat.S_ISREG(found.st_mode):
            return SkipReason.SPECIAL
        suffix = os.fsdecode(os.path.splitext(entry.name)[1]).lower()  # noqa: PTH122 (bytes)
        is_image = suffix in SUFFIXES or (not suffix and _starts_like_image(entry.path))
        return None if is_image else SkipReason.NOT_AN_IMAGE


def _starts_like_image(path: bytes) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (bytes)
            start = file.read(MARKED_BYTES)
    except OSError:
        return False
    return media_type(start) is not None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def checked_folders(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Return the folders as absolute paths.

    Raises:
        FolderError: one of them is in another one, so that its images would be classified twice.
    """
    absolute = tuple(extended_path(folder.resolve()) for folder in folders)
    for at, inner in enumerate(absolute):
        # By identity: where case does not matter, one folder has several names.
        above = {_identity(folder) for folder in (inner, *inner.parents)} - {None}
        for other, outer in enumerate(absolute):
            if at != other and _identity(outer) in above:
                raise FolderError(f"{folders[at]} is in {folders[other]}: name only one of them")
    return absolute


def shown_prefixes(folders: Sequence[Path]) -> tuple[str, ...]:
    """Return what comes before the names of each folder's files: nothing for one folder, else its name."""
    if len(folders) == 1:
        return ("",)
    names = Counter[str]()
    prefixes = []
    for folder in folders:
        name = folder.name or "root"
        names[name] += 1
        prefixes.append(f"{name} ({names[name]})/" if names[name] > 1 else f"{name}/")
    return tuple(prefixes)
