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

from localcloud.cognito.mailbox import mailbox

LIFETIME_SECONDS = 3600.0

WINDOW_SECONDS = 3600.0

MAX_IN_WINDOW = 5
"""Largest number of codes sent to an address, and of its wrong attempts, within the window."""

MAX_ADDRESSES = 10_000
"""Largest number of addresses with stored codes."""

Key = tuple[str, str]
"""Pool and address."""


class AttemptsExceededError(JsonRESTError):  # type: ignore[misc]  # of moto, which has no types
    """Raised when an address has requested or tried too many codes, with Cognito's message."""

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
    """The codes of this cloud; threads may share an instance. Addresses without an account behave as all others."""

    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], str] = _six_digits
    _proofs: OrderedDict[Key, _Proof] = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def new(self, key: Key) -> str:
        """Return a new code, which replaces the previous one.

        Raises:
            AttemptsExceededError: the address has requested too many codes.
        """
        with self._lock:
            proof, now = self._proof(key), self.clock()
            self._count(proof.sent, now)
            proof.code, proof.ends_at = self.draw(), now + LIFETIME_SECONDS
            return proof.code

    def use(self, key: Key, code: str) -> None:
        """Use up the code of an address.

        Raises:
            AttemptsExceededError: the address has too many wrong attempts.
            CodeMismatchException: the code is wrong.
            ExpiredCodeException: no code exists, or it was used or is too old.
        """
        with self._lock:
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
        while len(self._proofs) > MAX_ADDRESSES:
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
"""The codes of this process."""


def send_code(key: Key, *, has_account: bool = True) -> None:
    """Draw a code and mail it; a code for an address without an account counts, too, but is not mailed.

    Raises:
        AttemptsExceededError: the address has requested too many codes.
    """
    code = codes.new(key)
    if has_account:
        mailbox.send(key[1], "reset", code)


def code_delivery_details(address: str) -> dict[str, str]:
    """Return Cognito's CodeDeliveryDetails, with the masked address of a code."""
    name, _, domain = address.partition("@")
    return {"Destination": f"{name[:1]}***@{domain[:1]}***", "DeliveryMedium": "EMAIL", "AttributeName": "email"}
