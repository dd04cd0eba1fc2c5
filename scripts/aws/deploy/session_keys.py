"""The keys by which sessions are signed and encrypted: a SecureString that the web tier's role alone may read.

A line is a key; the first one signs, all of them verify (`web_tier/auth/session_keys.py`). They are made here and not
by the stack: a template can generate a secret in Secrets Manager only, which costs $0.40 a month and keeps one value,
not the last key beside the new one. Nothing of them is ever printed.
"""

import secrets

from scripts.aws.account import TAG
from scripts.aws.operation import Operation

KEPT = 2
"""How many keys there are after one was put before them: sessions of the last one go on."""

RANDOM_BYTES = 48


def parameter_name(prefix: str) -> str:
    """Return the name of the parameter that holds the keys; the stack's user data and policy name the same."""
    return f"/{prefix}/session-keys"


def provide(operation: Operation) -> bool:
    """Make a key, unless there is one, and return whether one was made."""
    account, name = operation.account, parameter_name(operation.prefix)
    try:
        account.ssm.put_parameter(
            Name=name,
            Description="Signs and encrypts sessions: a key a line, the first one signs, all of them verify",
            Value=_new_key(),
            Type="SecureString",
            Tags=[{"Key": TAG, "Value": operation.prefix}],
        )
    except account.ssm.exceptions.ParameterAlreadyExists:
        return False
    operation.done(f"made a key for sessions, in the parameter {name}; it was never shown")
    return True


def renew(operation: Operation) -> None:
    """Put a new key before the one that signs; one that is older than that is gone from then on."""
    if provide(operation):
        return
    account, name = operation.account, parameter_name(operation.prefix)
    keys = account.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"].split()
    value = "\n".join([_new_key(), *keys][:KEPT])
    account.ssm.put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
    operation.done(f"put a new key for sessions first, in the parameter {name}; it was never shown")


def _new_key() -> str:
    return secrets.token_urlsafe(RANDOM_BYTES)
