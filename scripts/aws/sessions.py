"""``fleetsight ssh``: a shell on an instance by Session Manager, which needs no key, no port and no address."""

import shutil
from collections.abc import Callable, Sequence

from scripts.aws.account import Account
from scripts.aws.instances import Machine, web_name
from services.errors import FleetsightError

INSTALL = {
    "aws": "the AWS command line: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
    "session-manager-plugin": "its plugin: https://docs.aws.amazon.com/systems-manager/latest/userguide/"
    "session-manager-working-with-install-plugin.html",
}
"""What a session needs on this machine, and where it is had from."""


class SessionError(FleetsightError):
    """Raised when there is no one instance to go to, or a program is missing; the message says what to do."""


def chosen(running: Sequence[Machine], prefix: str, wanted: str | None) -> Machine:
    """Return the instance to go to.

    Args:
        running: those there are.
        prefix: of the stack.
        wanted: an id, the beginning of one, or `web`; None where there is only one.

    Raises:
        SessionError: there is none, or there are several, which the message lists.
    """
    if wanted is None:
        found = list(running)
    elif wanted == "web":
        found = [each for each in running if each.name == web_name(prefix)]
    else:
        found = [each for each in running if each.instance_id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    listed = "".join(f"\n  {each.instance_id}  {each.name}" for each in found or running)
    if not found:
        raise SessionError(f"no running instance of {prefix} is {wanted or 'there'}; there are:{listed or ' none'}")
    raise SessionError(f"several instances run; name one:{listed}")


def command(account: Account, machine: Machine) -> list[str]:
    """Return the command that opens a session."""
    words = ["aws", "ssm", "start-session", "--target", machine.instance_id, "--region", account.region_name]
    return [*words, "--profile", account.profile] if account.profile else words


def need_programs(
    which: Callable[[str], str | None] = shutil.which, programs: Sequence[str] = tuple(INSTALL)
) -> None:
    """Refuse where a program is missing.

    Raises:
        SessionError: naming each, and where it is had from.
    """
    if lacking := [each for each in programs if which(each) is None]:
        listed = "".join(f"\n  {each}: install {INSTALL[each]}" for each in lacking)
        raise SessionError(f"a session needs programs that are not on this machine:{listed}")
