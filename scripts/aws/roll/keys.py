"""A new key for sessions: put before the last one, and read by a web instance that takes the place of the old one."""

from scripts.aws.deploy.session_keys import parameter_name, renew
from scripts.aws.operation import Operation
from scripts.aws.roll.versions import RollError
from scripts.aws.roll.web import groups, refresh


def roll_keys(operation: Operation, *, wait: bool, dry_run: bool) -> None:
    """Give sessions a new key; those of the last key go on.

    While both instances serve, the old one does not know sessions that the new one has begun.

    Raises:
        RollError: there is no web instance, or it could not be replaced.
        TimedOutError: it takes too long.
    """
    found = groups(operation)
    if not found:
        raise RollError(f"there is no web instance of {operation.prefix}: `fleetsight up` makes it")
    if dry_run:
        operation.say(f"A new key would be put first into {parameter_name(operation.prefix)}, and these replaced:")
        operation.say(", ".join(group.name for group in found))
        return
    renew(operation)
    for group in found:
        refresh(operation, group, wait=wait, every=True)
