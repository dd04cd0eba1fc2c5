"""The state of a system on this machine: its folder, which `run.sh --state` names, and its owner's key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.jobs.formats import earlier_format
from localcloud.access_keys import KEY_FILE, AccessKey, adopt_owner_key, owner_key
from localcloud.state.folder import StateFolder
from localcloud.store import EarlierStateError, StateError
from services.errors import FleetsightError

LOCK_SECONDS: Final = 15.0
"""Longest wait in seconds for a local cloud that ends since the command that started it was killed."""


class StateFolderError(FleetsightError):
    """Raised when a folder cannot be used as a state; the message says what to do."""


@dataclass(frozen=True)
class OpenState:
    """A state that this process uses.

    Attributes:
        lock: file descriptor with the lock, which the local cloud inherits.
        is_new: whether it was empty.
    """

    folder: StateFolder
    lock: int
    is_new: bool

    @property
    def sentence(self) -> str:
        """What a start finds, for the user."""
        return f"{self.folder.path} is a new state" if self.is_new else f"Continuing with {self.folder.path}"


def open_state(path: Path) -> OpenState:
    """Lock the state in a folder, and let this process use its owner's key.

    An empty folder becomes a state, with a new key.

    Raises:
        StateFolderError: another process uses the state, it is damaged, or the folder is something else.
        ConfigError: it has an earlier format.
    """
    try:
        folder = StateFolder.usable(path.absolute())
        lock = folder.acquire(LOCK_SECONDS)
        is_new = not folder.database.exists()
        folder.prepare()
        if (folder.path / KEY_FILE).exists():
            adopt_owner_key(AccessKey.load(folder.path))
        else:
            owner_key().save(folder.path)
    except EarlierStateError as error:
        raise earlier_format(path.absolute()) from error
    except StateError as error:
        raise StateFolderError(str(error)) from error
    except OSError as error:
        raise StateFolderError(f"the state {path} cannot be read: {error}") from error
    return OpenState(folder, lock, is_new)
