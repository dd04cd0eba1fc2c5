"""When the input bucket deletes images that no user asked to keep: the parameter ``UnkeptDays``.

The rule stands behind the controller, which deletes jobs after `retention.unkept_days`: it must come later, or images
of a job that still stands would go, which may be tried again.
"""

from math import ceil

from core.config import Retention
from scripts.aws.deploy.settings import SettingError, StackSettings
from scripts.aws.deploy.stacks import Stack

PARAMETER = "UnkeptDays"
KEY = "retention.unkept_days"

SPARE_DAYS = 23
"""Days after those of the configuration: with its 7, as many as the template's default."""


def unkept_days(retention: Retention, wishes: StackSettings, stack: Stack | None) -> str:
    """Return the parameter: what is wished, else what the stack has if the configuration still allows it.

    Else it follows from the configuration, as it does for a new stack, or when `retention.unkept_days` is wished.

    Raises:
        SettingError: what is wished would delete images before the controller deletes their jobs, or is no number.
    """
    if PARAMETER in wishes.parameters:
        return _allowed(wishes.parameters[PARAMETER], retention)
    days = None if stack is None else stack.parameters.get(PARAMETER)
    if KEY not in wishes.config and days is not None and days.isdigit() and _is_late_enough(int(days), retention):
        return days
    return str(ceil(retention.unkept_days + SPARE_DAYS) if retention.unkept_days else 0)


def _allowed(days: str, retention: Retention) -> str:
    if not (days.isascii() and days.isdigit()):
        raise SettingError(f"--set {PARAMETER}={days}: give whole days, or 0 for never")
    if not _is_late_enough(int(days), retention):
        until = f"after {retention.unkept_days:g} days" if retention.unkept_days else "never"
        more = f"more than {retention.unkept_days:g}, or 0" if retention.unkept_days else "0"
        raise SettingError(
            f"--set {PARAMETER}={days}: jobs that are not kept expire {until} ({KEY}), and the bucket must not "
            f"delete their images sooner: give {more}"
        )
    return days


def _is_late_enough(days: int, retention: Retention) -> bool:
    return days == 0 or 0 < retention.unkept_days < days
