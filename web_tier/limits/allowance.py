"""The quota of one request: its images are charged before they are accepted, and given back where they are not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from core.job_records import ImageRecord
from web_tier.limits.quotas import Amount, Quotas

_Outcome = TypeVar("_Outcome")


@dataclass
class Receipt:
    """Which of the images that were charged have been accepted."""

    accepted: Sequence[ImageRecord] = ()

    def keep(self, outcomes: list[_Outcome]) -> list[_Outcome]:
        """Let those of `outcomes` that are images stay charged; return them all."""
        self.accepted = [outcome for outcome in outcomes if isinstance(outcome, ImageRecord)]
        return outcomes


@dataclass(frozen=True)
class Allowance:
    """What one caller may have accepted; without `quotas` there is no limit."""

    quotas: Quotas | None = None
    caller: str = ""

    def charge_job(self) -> None:
        """Charge a new job.

        Raises:
            QuotaExceededError: when the caller may make no more today.
        """
        if self.quotas is not None:
            self.quotas.charge(self.caller, Amount(jobs=1))

    @contextmanager
    def charged(self, images: Sequence[ImageRecord]) -> Iterator[Receipt]:
        """Charge `images`; on leaving, those that the receipt does not name as accepted are given back.

        Raises:
            QuotaExceededError: when they are more than the caller may still send; nothing is charged then.
        """
        receipt = Receipt()
        if self.quotas is None:
            yield receipt
            return
        at = self.quotas.charge(self.caller, _amount(images))
        try:
            yield receipt
        finally:
            accepted = {image.ref for image in receipt.accepted}
            self.quotas.give_back(self.caller, _amount([each for each in images if each.ref not in accepted]), at)


UNLIMITED: Final = Allowance()
"""Without sign-in and on one machine."""


def _amount(images: Sequence[ImageRecord]) -> Amount:
    return Amount(len(images), sum(image.size for image in images))
