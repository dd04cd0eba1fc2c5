"""The state of a system on this machine: its folder, which `run.sh --state` names, and its owner's key."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from localcloud.access_keys import KEY_FILE, AccessKey, adopt_owner_key, owner_key
from localcloud.state.folder import StateFolder
from localcloud.store import StateError, counts
from services.errors import FleetsightError

LOCK_SECONDS: Final = 15.0
"""Longest wait in seconds for a local cloud that ends since the command that started it was killed."""


_SHOWN: Final = {"objects": "object", "items": "item", "messages": "message"}
"""What a start counts, with the names that it prints."""


class StateFolderError(FleetsightError):
    """Raised when a folder cannot be used as a state; the message says what to do."""


@dataclass(frozen=True)
class OpenState:
    """A state that this process uses.

    Attributes:
        lock: file descriptor with the lock, which the local cloud inherits.
        contents: numbers of objects, items and messages.
    """

    folder: StateFolder
    lock: int
    contents: Counter[str]

    @property
    def sentence(self) -> str:
        """What a start restores, for the user."""
        if not self.contents.total():
            return f"{self.folder.path} is a new state"
        from core.format import plural  # late, see scripts/state.py

        counts = [plural(self.contents[kind], name) for kind, name in _SHOWN.items()]
        return f"Restoring {', '.join(counts[:-1])} and {counts[-1]} from {self.folder.path}"


def open_state(path: Path) -> OpenState:
    """Lock the state in a folder, and let this process use its owner's key.

    An empty folder becomes a state, with a new key.

    Raises:
        StateFolderError: another process uses the state, it is damaged, or the folder is something else.
    """
    try:
        folder = StateFolder.usable(path.absolute())
        lock = folder.acquire(LOCK_SECONDS)
        folder.prepare()
        contents = counts(folder.path)
        if (folder.path / KEY_FILE).exists():
            adopt_owner_key(AccessKey.load(folder.path))
        else:
            owner_key().save(folder.path)
    except StateError as error:
        raise StateFolderError(str(error)) from error
    except OSError as error:
        raise StateFolderError(f"the state {path} cannot be read: {error}") from error
    return OpenState(folder, lock, contents)
