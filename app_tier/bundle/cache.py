"""Where bundles that came as a zip or from S3 are kept, and how one gets there: whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from app_tier.bundle.errors import BundleError, BundleFormatError
from app_tier.bundle.load import Bundle, load_folder

MAX_FILE_BYTES: Final = 2 * 2**30
"""Bytes; four times what the largest ResNet of torchvision takes."""


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return this user's own cache: systemd's, the desktop's, or ``~/.cache``. Never a folder that others share."""
    if systemd := environment.get("CACHE_DIRECTORY"):
        return Path(systemd.split(":")[0]) / "bundles"
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fleetsight" / "bundles"


def kept(name: str, fill: Callable[[Path], None], cache: Path) -> Bundle:
    """Return the bundle that the cache keeps as `name`, having `fill` write it into a new folder if it is not there.

    What is kept is checked each time; a copy that was damaged is made again. Two processes may fill the same bundle
    at once: the first to finish keeps it.

    Raises:
        BundleError: what `fill` wrote is not a whole bundle, or the cache cannot be written.
    """
    folder = cache / name
    try:
        if folder.is_dir():
            return load_folder(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name[:8]}.", dir=cache, ignore_cleanup_errors=True) as scratch:
            return _keep(Path(scratch) / "bundle", fill, folder)
    except OSError as error:
        raise BundleFormatError(
            f"a bundle cannot be kept in {cache} ({error}): free some space, or set XDG_CACHE_HOME"
        ) from error


def _keep(new: Path, fill: Callable[[Path], None], folder: Path) -> Bundle:
    new.mkdir()
    fill(new)
    load_folder(new)
    try:
        new.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    return load_folder(folder)


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file from `chunks`, which may come from anywhere and must end before the disk does.

    Raises:
        BundleFormatError: they are more than `MAX_FILE_BYTES` bytes.
    """
    written = 0
    with path.open("wb") as file:
        for chunk in chunks:
            written += len(chunk)
            if written > MAX_FILE_BYTES:
                raise BundleFormatError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes: no bundle's file is")
            file.write(chunk)
