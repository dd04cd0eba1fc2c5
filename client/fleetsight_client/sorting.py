"""Sorts images into a folder for each label. Labels come from a server: they are names, never paths."""

import errno
import filecmp
import os
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleetsight_client.api import FleetsightClientError
from fleetsight_client.journal import ListedFile
from fleetsight_client.rows import UNSURE
from fleetsight_client.systems import extended_path, plain_path

FAILED_FOLDER: Final = "_failed"
"""The folder of images without a label."""

UNSURE_FOLDER: Final = "_unsure"
"""The folder of images with too low a score."""

MAX_NAME_BYTES: Final = 200
"""Bytes of a folder's or file's name; file systems allow 255."""

_NOT_IN_NAMES: Final = re.compile(r'[/\\:*?"<>|]')
_RESERVED: Final = re.compile(
    r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d\u00b9\u00b2\u00b3])\s*(\..*)?", re.DOTALL
)
"""Names that Windows gives to devices."""


class SortError(FleetsightClientError):
    """Raised when images cannot be sorted into the folder; the message says what to do."""


@dataclass
class SortedFolder:
    """A folder with a folder for each label.

    Attributes:
        folder: that contains the folders of labels.
        links: whether files are linked (hard links), else copied.
        counts: files by what became of them: `sorted`, `there` (from an earlier command), `problem`.
        problems: the first problems, in words.
    """

    folder: Path
    links: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def prepare(self, sources: tuple[Path, ...]) -> None:
        """Create the folder, and check that files can be linked into it.

        Raises:
            SortError: it cannot be created, or links are wanted and it is in another file system.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder = extended_path(self.folder.resolve())
            device = self.folder.stat().st_dev
            others = [source for source in sources if source.stat().st_dev != device]
        except OSError as error:
            raise SortError(f"--sort-into {self.folder} cannot be used: {error.strerror}") from error
        if self.links and others:
            raise SortError(f"{others[0]} is in another file system than {self.folder}: use --copy")

    def add(self, file: ListedFile, decision: str | None) -> None:
        """Put a file into the folder of its label, of unsure or of failed images; no other file is overwritten."""
        parts = [safe_name(part) for part in file.name.split("/")]
        target = self.folder.joinpath(decision_folder(decision), *parts)
        try:
            now = file.path.stat()
            if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
                self._problem(file, "it has changed since it was classified")
                return
            if not Path(os.path.realpath(target.parent)).is_relative_to(self.folder):
                self._problem(file, f"a link leads out of {self.folder}")
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(target):
                self._compare(file, target)
            else:
                self._place(file, target)
                self.counts["sorted"] += 1
        except FileExistsError:
            self._problem(file, f"{target} is another file")
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._problem(file, "it is in another file system: use --copy")
            else:
                self._problem(file, error.strerror or str(error))

    def _compare(self, file: ListedFile, target: Path) -> None:
        """Count a file as sorted before if the target has the same content."""
        if target.is_file() and not target.is_symlink() and filecmp.cmp(file.path, target, shallow=False):
            self.counts["there"] += 1
        else:
            self._problem(file, f"{target} is another file")

    def _place(self, file: ListedFile, target: Path) -> None:
        """Link or copy a file; the target has its whole content as soon as it exists.

        Raises:
            FileExistsError: the target exists meanwhile.
        """
        if self.links:
            os.link(file.path, target)
            return
        number, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".partial")
        os.close(number)
        partial = Path(name)
        try:
            shutil.copy2(file.path, partial)
            try:
                os.link(partial, target)  # fails if the target exists; a rename would replace it
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                if os.path.lexists(target):
                    raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
                partial.rename(target)
        finally:
            with suppress(OSError):
                partial.unlink()

    def _problem(self, file: ListedFile, why: str) -> None:
        self.counts["problem"] += 1
        why = why.replace(str(self.folder), plain_path(self.folder))
        if len(self.problems) < 10:
            self.problems.append(f"{file.name} was not sorted: {why}")


def decision_folder(decision: str | None) -> str:
    """Return the name of the folder of a label, which is never that of unsure or failed images, or of these."""
    if decision is None:
        return FAILED_FOLDER
    name = safe_name(decision)
    if decision == UNSURE:
        return UNSURE_FOLDER
    return f"{name}_" if name.casefold() in {FAILED_FOLDER, UNSURE_FOLDER} else name


def safe_name(text: str) -> str:
    """Return a text as the name of one folder or file, on Linux, macOS and Windows."""
    kept = "".join("_" if unicodedata.category(each)[0] == "C" else each for each in text)
    name = _NOT_IN_NAMES.sub("_", kept).strip().rstrip(". ")
    if name.startswith("."):
        name = "_" + name[1:]
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    if len(name.encode()) > MAX_NAME_BYTES:
        stem, dot, suffix = name.rpartition(".")
        suffix = dot + suffix if dot and len(suffix) <= 8 else ""
        stem = stem if suffix else name
        kept = stem.encode()[: MAX_NAME_BYTES - len(suffix.encode())].decode(errors="ignore")
        name = (kept + suffix).rstrip(". ")
    return name or "_"
