"""Lists of files: what is classified when it is no folder, and the columns that a manifest gives its files."""

import json
import os
import re
import sqlite3
import stat
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fleetsight_client.folders import MISSING_SIZE, FolderError, FoundFile, SkipReason
from fleetsight_client.media_types import SUFFIXES
from fleetsight_client.names import printable, shown_name
from fleetsight_client.rows import BODY_NAMES, COLUMNS
from fleetsight_client.systems import SYSTEM_FOLDERS, length_of_root
from fleetsight_client.tables import FILE_COLUMNS, TableError, lines_of, place_of, read_table

MAX_MANIFEST_COLUMNS: Final = 200
SHOWN_LINES: Final = 3

_WILDCARDS: Final = frozenset("*?[")
_TABLE: Final = "CREATE TABLE lines (name BLOB PRIMARY KEY, cells TEXT, uses INTEGER DEFAULT 0) WITHOUT ROWID"


@dataclass
class FileList:
    """Files by their paths, each with columns of a manifest, in a temporary database, so that memory stays flat.

    It finds files as `FolderWalk` does: one that is named and does not exist has the size `MISSING_SIZE`.

    Attributes:
        base: the folder above all files, absolute.
        columns: names of the manifest's columns.
        own: files and folders that the command writes; patterns leave them out.
    """

    base: Path
    columns: Sequence[str] = ()
    own: Sequence[Path] = ()
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    examples: dict[SkipReason, list[str]] = field(default_factory=dict)
    unmatched: int = field(default=0, init=False)
    """Images that the manifest does not name."""

    def __post_init__(self) -> None:
        """Create the temporary database; SQLite removes it."""
        self._lines = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._lines.close)
        self._lines.execute(_TABLE)
        self._lines.execute("BEGIN")

    def add_path(self, path: Path, cells: Sequence[str] = ()) -> bool:
        """Add a file; return False if the list has it."""
        while not path.is_relative_to(self.base):
            if self.base == self.base.parent:
                raise FolderError(f"{path} is on another drive than {self.base}: classify each drive by itself")
            self.base = self.base.parent
        return self.add_name(os.fsencode(path), cells)

    def add_name(self, name: bytes, cells: Sequence[str]) -> bool:
        """Add columns by a name that `cells` is called with; return False if the list has it."""
        row = (name, json.dumps(cells))
        return self._lines.execute("INSERT OR IGNORE INTO lines (name, cells) VALUES (?, ?)", row).rowcount > 0

    def add_pattern(self, pattern: str) -> None:
        """Add the images that match a pattern such as `photos/**/*.jpg`, where `**` follows no link to a folder.

        Raises:
            FolderError: none does.
        """
        parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in Path(pattern).parts]
        chosen, is_empty = Path(*parts, *(["*"] if parts[-1] == "**" else [])), True
        for found in Path(chosen.anchor).glob(str(chosen.relative_to(chosen.anchor))):
            path = _absolute(found)
            if path.is_dir():
                continue
            is_empty = False
            unnamed = {*found.parts} - {*parts}
            if any(part.startswith(".") or part.lower() in SYSTEM_FOLDERS for part in unnamed):
                self.skipped[SkipReason.HIDDEN] += 1
            elif any(path.is_relative_to(each.absolute()) for each in self.own):
                self.skipped[SkipReason.OWN] += 1
            elif path.suffix.lower() not in SUFFIXES:
                self.skipped[SkipReason.NOT_AN_IMAGE] += 1
            else:
                self.add_path(path)
        if is_empty:
            raise FolderError(f"no file matches {pattern}")

    def __iter__(self) -> Iterator[FoundFile]:
        """Yield the files in no order, each once."""
        start = length_of_root(os.fsencode(self.base))
        for (path,) in self._lines.execute("SELECT name FROM lines"):
            try:
                found = os.stat(path)  # noqa: PTH116 (bytes)
            except OSError:
                yield FoundFile(0, path[start:], MISSING_SIZE, 0)
            else:
                # Opening another thing than a file, such as a pipe, may block.
                size = found.st_size if stat.S_ISREG(found.st_mode) else MISSING_SIZE
                yield FoundFile(0, path[start:], size, found.st_mtime_ns, found.st_ctime_ns)

    def cells(self, name: bytes) -> Mapping[str, Any]:
        """Return the columns of a file, and count that they were used; None for each that its line does not have."""
        row = self._lines.execute("SELECT cells FROM lines WHERE name = ?", (name,)).fetchone()
        if row is None:
            self.unmatched += bool(self.columns)
            return dict.fromkeys(self.columns)
        self._lines.execute("UPDATE lines SET uses = uses + 1 WHERE name = ?", (name,))
        values = json.loads(row[0])
        return {name: values[at] or None if at < len(values) else None for at, name in enumerate(self.columns)}

    def sentences(self) -> Iterator[str]:
        """Yield in words the lines of the manifest without an image, and the images without a line."""
        if not self.columns:
            return
        rows = self._lines.execute("SELECT name, count(*) OVER () FROM lines WHERE NOT uses LIMIT ?", (SHOWN_LINES,))
        if unused := rows.fetchall():
            names = ", ".join(os.fsdecode(name) for name, _ in unused)
            yield f"Lines of the manifest without an image: {unused[0][1]:,}. The first: {names}."
        if self.unmatched:
            yield f"Images without a line of the manifest: {self.unmatched:,}."


def is_pattern(argument: Path) -> bool:
    """Return whether an argument is a pattern, and not the name of a file."""
    return bool(_WILDCARDS & {*str(argument)}) and not argument.exists()


def listed_files(arguments: Sequence[Path], own: Sequence[Path]) -> FileList:
    """Return the files that arguments name: files, patterns, and lists (`.txt`) with a path on each line.

    Raises:
        FolderError: one of them is a folder or does not exist, or a pattern matches nothing.
        TableError: a list cannot be read.
    """
    first = arguments[0]
    parts = first.parts[: next((at for at, part in enumerate(first.parts) if _WILDCARDS & {*part}), -1)]
    files = FileList(Path(*parts).absolute() if is_pattern(first) else _absolute(first).parent, own=own)
    for argument in arguments:
        if argument.is_dir():
            raise FolderError(f"{argument} is a folder: name folders only, or files only")
        if is_pattern(argument):
            files.add_pattern(str(argument))
        elif not argument.exists():
            raise FolderError(f"{argument} does not exist")
        elif argument.suffix.lower() == ".txt":
            for path in filter(None, map(str.strip, lines_of(argument))):
                files.add_path(path_of(path, argument))
        else:
            files.add_path(_absolute(argument))
    return files


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (without `..`, and links stay as they are named)


def path_of(text: str, file: Path) -> Path:
    """Return the path that a line of `file` names, relative to its folder; backslashes of Windows are slashes."""
    with suppress(ValueError):  # a path with a null character
        path = _absolute(file.parent / text)
        if os.sep == "/" and "\\" in text and not path.exists():
            path = _absolute(file.parent / text.replace("\\", "/"))
        if "\0" not in text:
            return path
    raise TableError(f"{file} has a path with a null character: save it as text")


def read_manifest(manifest: Path, reserved: Sequence[str] = (), source: str | None = None) -> FileList:
    """Return the files of a CSV, each with its columns; with `source`, they are images at that location in S3.

    `reserved` are the names of other columns of the results.

    Raises:
        TableError: it has no column of files, a name twice, a column that results have, or no line.
    """
    files, place = FileList(_absolute(manifest).parent), 0
    for number, cells in read_table(manifest):
        if not files.columns:
            place = _check_header(manifest, cells, reserved)
            files.columns = [printable(cell) for cell in cells]
            continue
        if len(cells) > len(files.columns):
            raise TableError(f"{manifest}, line {number}: it has more cells than the first line has names")
        text = cells[place] if place < len(cells) else ""
        if not text:
            raise TableError(f"{manifest}, line {number}: write a path")
        if source is not None:
            name = text.removeprefix(f"{source.rstrip('/')}/")  # an address elsewhere stays whole
            is_new = files.add_name((name if "://" in name else shown_name(name)).encode(), cells)
        elif text.startswith("s3://"):
            raise TableError(f"{manifest}, line {number}: add --source with the folder in S3 above all of its images")
        else:
            is_new = files.add_path(path_of(text, manifest), cells)
        if not is_new:
            raise TableError(f"{manifest}, line {number} names {text} again: give each file one line")
    if not files.columns:
        raise TableError(f"{manifest} is empty")
    return files


def _check_header(manifest: Path, header: Sequence[str], reserved: Sequence[str]) -> int:
    """Return the place of the column of files."""
    place = place_of(header, FILE_COLUMNS)
    if place is None:
        raise TableError(f"{manifest}, line 1: name the column of files `path`, `file` or `filename`")
    names = [printable(each) for each in header]
    if len(names) > MAX_MANIFEST_COLUMNS:
        raise TableError(f"{manifest} has {len(names):,} columns: keep at most {MAX_MANIFEST_COLUMNS}")
    counts, taken = Counter(names), {*COLUMNS, *BODY_NAMES, *reserved}
    for at, name in enumerate(names):
        if not name or counts[name] > 1 or (name in taken and at != place):
            raise TableError(
                f"{manifest}, line 1: rename the column {name!r}: another column of results has its name"
            )
    return place


def split_source(source: str) -> tuple[str, str | None]:
    """Return a location in S3 as the folder above all wildcards, and the pattern of the names below it, if any."""
    parts = source.split("/")
    first = next((at for at, part in enumerate(parts) if _WILDCARDS & {*part}), None)
    return (source, None) if first is None else ("/".join(parts[:first]), "/".join(parts[first:]))


def further_columns(manifest: FileList | None) -> dict[str, type]:
    """Return the columns that a manifest adds to results: all, but for a column of files that results have."""
    names = () if manifest is None else manifest.columns
    return {name: str for name in names if name not in COLUMNS}
