"""Sends codes: into the mailbox, with the answer that says where to."""

from localcloud.user_pools.codes import Key, codes
from localcloud.user_pools.mailbox import mailbox


def send_code(key: Key, *, posted: bool = True) -> None:
    """Draw a code and mail it; without an account it is drawn all the same, and not sent.

    Raises:
        AttemptsExceededError: too many were asked for.
    """
    code = codes.new(key)
    if posted:
        mailbox.send(key[1], "reset", code)


def delivery(address: str) -> dict[str, str]:
    """Return where a code has gone, as Cognito tells it: the beginnings of the address."""
    name, _, domain = address.partition("@")
    return {"Destination": f"{name[:1]}***@{domain[:1]}***", "DeliveryMedium": "EMAIL", "AttributeName": "email"}
