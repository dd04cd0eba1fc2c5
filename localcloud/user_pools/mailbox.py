"""The mails that user pools would send: kept here, a bounded number of them, and shown to the owner of the cloud."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Purpose = Literal["invitation", "reset"]
MAX_MAILS = 1_000


@dataclass(frozen=True)
class Mail:
    """A mail of a user pool.

    Attributes:
        number: counts all mails of this cloud, from 1.
        to: the address.
        purpose: what the mail is for: the first sign-in to a new account, or a new password.
        secret: a temporary password for an invitation, else a code of six digits.
        sent_at: epoch seconds.
    """

    number: int
    to: str
    purpose: Purpose
    secret: str
    sent_at: float


@dataclass
class Mailbox:
    """The latest mails; threads may share it."""

    clock: Callable[[], float] = time.time
    most: int = MAX_MAILS
    _mails: deque[Mail] = field(init=False)
    _number: int = field(default=0, init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Make room for as many as are kept."""
        self._mails = deque(maxlen=self.most)

    def send(self, to: str, purpose: Purpose, secret: str) -> None:
        """Keep a mail; the oldest goes when there are too many."""
        with self._turn:
            self._number += 1
            self._mails.append(Mail(self._number, to, purpose, secret, self.clock()))

    def mails(self) -> list[Mail]:
        """Return those that are kept, oldest first."""
        with self._turn:
            return list(self._mails)


mailbox = Mailbox()
"""That of this process."""
