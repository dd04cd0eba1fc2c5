"""The mails of user pools: not sent, but stored, the latest thousand, for the owner of the cloud."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from localcloud.clock import wall_seconds

Purpose = Literal["invitation", "reset"]
MAX_MAILS = 1_000
"""Largest number of stored mails."""


@dataclass(frozen=True)
class Mail:
    """A mail of a user pool.

    Attributes:
        number: counts all mails of this cloud, from 1.
        purpose: the first sign-in to a new account, or a new password.
        content: a temporary password for an invitation, or a code of six digits for a new password.
        sent_at: epoch seconds.
    """

    number: int
    to: str
    purpose: Purpose
    content: str
    sent_at: float


class Mailbox:
    """Stores the latest mails; threads may share an instance."""

    def __init__(self, clock: Callable[[], float] = wall_seconds, max_mails: int = MAX_MAILS) -> None:
        self._clock, self._number, self._lock = clock, 0, threading.Lock()
        self._mails: deque[Mail] = deque(maxlen=max_mails)

    def send(self, to: str, purpose: Purpose, content: str) -> None:
        """Store a mail, and drop the oldest if there are too many."""
        with self._lock:
            self._number += 1
            self._mails.append(Mail(self._number, to, purpose, content, self._clock()))

    def mails(self) -> list[Mail]:
        """Return the stored mails, oldest first."""
        with self._lock:
            return list(self._mails)


mailbox = Mailbox()
"""The mailbox of this process."""
