"""What differs between Linux, macOS and Windows: separators, long paths, and folders of the system."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePath, PureWindowsPath
from typing import Final, TypeVar

AnyPath = TypeVar("AnyPath", bound=PurePath)

SEPARATORS: Final = os.fsencode(os.sep + (os.altsep or ""))
"""The characters between the parts of a path on this system."""

SYSTEM_FOLDERS: Final = frozenset({"@eadir", "$recycle.bin", "system volume information"})
"""Folders with copies or deleted images, in lower case: of Synology's servers, and of Windows on drives and cards."""

_EXTENDED: Final = "\\\\?\\"


def length_of_root(folder: bytes, separators: bytes = SEPARATORS) -> int:
    """Return the place in the paths below a folder where their relative part begins.

    A root ends with a separator: `/`, or that of a card's drive.
    """
    return len(folder.rstrip(separators)) + 1


def shown_separators(path: str, separator: str = os.sep) -> str:
    """Return a relative path with slashes; on Linux and macOS a backslash is a character of a name and stays."""
    return path.replace(separator, "/")


def extended_path(path: AnyPath) -> AnyPath:
    """Return an absolute path in the form in which Windows allows more than 259 characters; others as they are.

    Source: https://learn.microsoft.com/en-us/windows/win32/fileio/maximum-file-path-limitation
    """
    text = str(path)
    if not isinstance(path, PureWindowsPath) or text.startswith(_EXTENDED):
        return path
    is_share = text.startswith("\\\\")
    return type(path)(f"{_EXTENDED}UNC\\{text[2:]}" if is_share else f"{_EXTENDED}{text}")


def plain_path(path: PurePath) -> str:
    """Return a path as users write it, without the mark of `extended_path`."""
    text = str(path)
    if not isinstance(path, PureWindowsPath):
        return text
    return text.replace(f"{_EXTENDED}UNC\\", "\\\\", 1).replace(_EXTENDED, "", 1)


def state_home(environment: Mapping[str, str], home: Path, *, is_windows: bool = os.name == "nt") -> Path:
    """Return the folder for what programs remember: of XDG, or on Windows the local one of the user."""
    if environment.get("XDG_STATE_HOME"):
        return Path(environment["XDG_STATE_HOME"])
    if is_windows and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"])
    return home / ".local" / "state"
