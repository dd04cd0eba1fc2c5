"""SES with the mailbox of this cloud: moto stores a message and does not show it."""

from collections.abc import Callable
from typing import Any

from localcloud.cognito.mailbox import mailbox
from localcloud.patches import Patches

PATCHES = Patches()


@PATCHES.wrap("moto.sesv2.models:SESV2Backend.send_email", "the mail is not shown")
def send_email(
    original: Callable[..., Any],
    self: Any,
    source: str,
    destinations: dict[str, list[str]],
    subject: str,
    body: str,
) -> Any:
    """Send a mail with one text, as moto does, and put it into the mailbox."""
    message = original(self, source, destinations, subject, body)
    for address in (each for addresses in destinations.values() for each in addresses):
        mailbox.send(address, "message", f"{subject}\n{body}")
    return message
