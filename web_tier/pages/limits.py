"""The fleet's limits on its pages: those in force, and the form that sets others."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from core.config import MAX_WORKERS
from core.fleet.models import LimitsOverride, WorkerLimits
from core.fleet.store import FleetState
from web_tier.text import clean_reason

MAX_DIGITS = 10
"""Characters of a field that are shown again."""


def limits_in_force(state: FleetState, configured: WorkerLimits) -> WorkerLimits:
    """Return the limits as ops have just set them, or taken them back, though no controller may have looked since.

    `configured` are those of config.yaml, for when no controller has told them yet.
    """
    snapshot = state.snapshot
    if state.limits is not None:
        return state.limits
    if snapshot is None:
        return configured
    if snapshot.limits_order is not None and snapshot.configured is not None:
        return snapshot.configured
    return WorkerLimits(min_workers=snapshot.min_workers, max_workers=snapshot.max_workers)


@dataclass(frozen=True, slots=True)
class LimitsForm:
    """What stands in the form's fields, and what is wrong with it, if anything is."""

    min_workers: str
    max_workers: str
    reason: str = ""
    fault: str | None = None

    @classmethod
    def of(cls, limits: WorkerLimits) -> Self:
        """Return the form that shows `limits`."""
        return cls(str(limits.min_workers), str(limits.max_workers))

    @classmethod
    def sent(cls, fields: Mapping[str, str]) -> Self:
        """Return the form as it was sent, with what is wrong with it."""
        least, most = (fields.get(name, "").strip()[:MAX_DIGITS] for name in ("min_workers", "max_workers"))
        form = cls(least, most, clean_reason(fields.get("reason", "")))
        return replace(form, fault=form.check())

    def check(self) -> str | None:
        """Return what is wrong, in words for people."""
        for name, text in (("minimum", self.min_workers), ("maximum", self.max_workers)):
            if not (text.isascii() and text.isdigit() and int(text) <= MAX_WORKERS):
                return f"The {name} must be a whole number from 0 to {MAX_WORKERS:,}."
        if int(self.min_workers) > int(self.max_workers):
            return f"The minimum ({self.min_workers}) must be at most the maximum ({self.max_workers})."
        return None

    def order(self, now: datetime) -> LimitsOverride | None:
        """Return the order that the form gives, or None when something is wrong with it."""
        if self.fault is not None:
            return None
        return LimitsOverride(
            min_workers=int(self.min_workers), max_workers=int(self.max_workers), since=now, reason=self.reason
        )
