"""Leadership: hold the lease and act, or stand by.

This loop does nothing but renew, in a thread of its own, so that no slow round of work can lose the lease. The work
asks `lease.held` before each step, which turns false by itself when a renewal is late.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from botocore.exceptions import BotoCoreError, ClientError

_log = logging.getLogger(__name__)


class Contender(Protocol):
    """What is needed of a lease, as `services.lease.Lease` has it."""

    length_seconds: float

    @property
    def held(self) -> bool:
        """Whether this contender may act now."""

    def take_or_renew(self) -> bool:
        """Renew or take the lease; tell whether it is held."""

    def release(self) -> None:
        """Give the lease up."""


class Work(Protocol):
    """What the holder does, as `LoopGroup` has it."""

    @property
    def over(self) -> bool:
        """Whether it has ended because the lease was not held for a moment."""

    def start(self) -> None:
        """Begin."""

    def dead(self) -> list[str]:
        """Return the names of parts that have ended by themselves."""

    def stop(self) -> bool:
        """End; tell whether all has ended."""


def lead(lease: Contender, new_work: Callable[[], Work], wait: Callable[[float], bool]) -> int:
    """Contend for `lease` until told to stop, and do the work whenever it is held.

    Args:
        lease: renewed every third of its length.
        new_work: makes the work of one tenure; it begins with nothing remembered from an earlier one.
        wait: waits for so many seconds; true when the process was told to stop.

    Returns:
        The exit status: 0 when told to stop, 1 when a part of the work died or would not end.
    """
    work: Work | None = None
    while True:
        held = _contend(lease)
        if work is not None and (work.over or not held):
            _log.error("the lease was lost: this controller stops acting")
            if not work.stop():
                return _fatal("the loops did not end after the lease was lost")
            work = None
        if held and work is None:
            work = _begin(new_work)
        if work is not None and (dead := work.dead()):
            return _fatal(f"the loops {', '.join(dead)} have died")
        if wait(lease.length_seconds / 3):
            return _hand_over(lease, work)


def _contend(lease: Contender) -> bool:
    try:
        return lease.take_or_renew()
    except (BotoCoreError, ClientError) as error:
        _log.warning("the lease could not be renewed or taken", extra={"error": str(error)})
        return lease.held


def _begin(new_work: Callable[[], Work]) -> Work:
    _log.info("this controller holds the lease and acts")
    work = new_work()
    work.start()
    return work


def _hand_over(lease: Contender, work: Work | None) -> int:
    if work is None:
        return 0
    if not work.stop():
        # Not released: the loops may still act, so a standby has to wait until the lease has run out.
        return _fatal("the loops did not end in time")
    try:
        lease.release()
    except (BotoCoreError, ClientError) as error:
        _log.warning("the lease could not be released, and runs out by itself", extra={"error": str(error)})
    return 0


def _fatal(reason: str) -> int:
    _log.critical("%s: this process ends, and its supervisor starts a new one", reason)
    return 1
