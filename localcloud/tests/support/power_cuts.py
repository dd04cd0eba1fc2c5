"""A disk that forgets at a power failure what was not synchronized."""

import os
from pathlib import Path

from localcloud.store import ACKNOWLEDGED, CONTENTS, DATABASE

Files = dict[str, bytes]
"""The content of the files of a state, by their paths in its folder."""

OF_SQLITE = (DATABASE, f"{DATABASE}-wal")
"""Files that SQLite synchronizes itself, at each commit; it makes its index of the log again."""


def files_of(folder: Path) -> Files:
    """Return the content of the files of a state."""
    named = [folder / name for name in (*OF_SQLITE, ACKNOWLEDGED)] + list((folder / CONTENTS).glob("*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in named if file.exists()}


def write_files(files: Files, folder: Path) -> Path:
    """Write the files of a state into a folder, which is made; return the folder."""
    (folder / CONTENTS).mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


class Disk:
    """Stands for `os.fsync`, and knows what it was asked for. It has the files of one state."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, int]] = {}
        self._contents: dict[int, bytes] = {}

    def fsync(self, descriptor: int) -> None:
        """Remember a file's content, or the names in a folder with the files that they name."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self._names[str(path)] = {each.name: each.stat().st_ino for each in path.iterdir()}
        else:
            self._contents[os.fstat(descriptor).st_ino] = path.read_bytes()

    def synchronize_all(self, folder: Path) -> None:
        """Remember everything in a folder."""
        for path in (folder, *folder.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self.fsync(descriptor)
            os.close(descriptor)

    def files_after_power_cut(self, folder: Path, of_sqlite: Files) -> Files:
        """Return what the disk has of a state, of which SQLite has synchronized its own files."""
        own = self._names[str(folder)]
        assert {DATABASE, ACKNOWLEDGED, CONTENTS} <= own.keys(), "a file that matters has no durable name"
        acknowledged = {ACKNOWLEDGED: (folder / ACKNOWLEDGED).read_bytes()}  # at most what the kernel has
        names = self._names.get(str(folder / CONTENTS), {})
        contents = {f"{CONTENTS}/{name}": self._contents.get(file, b"") for name, file in names.items()}
        return {**of_sqlite, **acknowledged, **contents}
