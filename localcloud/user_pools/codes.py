"""The codes that reset passwords: six digits, valid for an hour, for one use and for five attempts.

https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html has the lifetime. Cognito does not document the
exact number of attempts.
"""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from moto.cognitoidp.exceptions import CodeMismatchException, ExpiredCodeException
from moto.core.exceptions import JsonRESTError

LIFETIME_SECONDS = 3600.0
WINDOW_SECONDS = 3600.0
MAX_IN_WINDOW = 5
"""Codes that are sent, and wrong attempts, of one address within the window."""

MAX_KEPT = 10_000

Key = tuple[str, str]
"""Pool and address."""


class AttemptsExceededError(JsonRESTError):  # type: ignore[misc]  # of moto, which has no types
    """Raised when an address has asked or tried too often; in Cognito's words."""

    def __init__(self) -> None:
        super().__init__("LimitExceededException", "Attempt limit exceeded, please try after some time.")


@dataclass
class _Proof:
    code: str | None = None
    ends_at: float = 0.0
    sent: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)


def _six_digits() -> str:
    return f"{secrets.randbelow(10**6):06d}"


@dataclass
class Codes:
    """The codes of this cloud; threads may share it. An address without an account is treated as any other."""

    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], str] = _six_digits
    _proofs: OrderedDict[Key, _Proof] = field(default_factory=OrderedDict, init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False)

    def new(self, key: Key) -> str:
        """Return a new code; the one before is good for nothing any more.

        Raises:
            AttemptsExceededError: too many were asked for.
        """
        with self._turn:
            proof, now = self._proof(key), self.clock()
            self._count(proof.sent, now)
            proof.code, proof.ends_at = self.draw(), now + LIFETIME_SECONDS
            return proof.code

    def use(self, key: Key, code: str) -> None:
        """Use up the code of an address.

        Raises:
            AttemptsExceededError, CodeMismatchException, ExpiredCodeException: too many wrong ones; wrong; not there,
                used, or too old.
        """
        with self._turn:
            proof, now = self._proof(key), self.clock()
            if len(_within_window(proof.wrong, now)) >= MAX_IN_WINDOW:
                raise AttemptsExceededError
            if proof.code is not None and hmac.compare_digest(proof.code.encode(), code.encode()):
                if now >= proof.ends_at:
                    raise _expired()
                proof.code = None
                return
            self._count(proof.wrong, now)
            if proof.code is None or now >= proof.ends_at:
                raise _expired()
            raise CodeMismatchException("Invalid verification code provided, please try again.")

    def _proof(self, key: Key) -> _Proof:
        proof = self._proofs.setdefault(key, _Proof())
        self._proofs.move_to_end(key)
        while len(self._proofs) > MAX_KEPT:
            self._proofs.popitem(last=False)
        return proof

    @staticmethod
    def _count(times: list[float], now: float) -> None:
        times[:] = _within_window(times, now)
        if len(times) >= MAX_IN_WINDOW:
            raise AttemptsExceededError
        times.append(now)


def _within_window(times: list[float], now: float) -> list[float]:
    return [each for each in times if now - each < WINDOW_SECONDS]


def _expired() -> ExpiredCodeException:
    return ExpiredCodeException("Invalid code provided, please request a code again.")


codes = Codes()
"""Those of this process."""
