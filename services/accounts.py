"""The accounts of a user pool, for `fleetsight users`: create, list, change and delete them, by a role."""

import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.emails import required_email
from services.errors import FleetsightError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient
    from mypy_boto3_cognito_idp.type_defs import AttributeTypeTypeDef

USERS: Final = "users"
OPERATORS: Final = "operators"
"""The group of the users who can view and manage the fleet."""


class EmailTakenError(FleetsightError):
    """Raised when an address has an account already; the message is for the operator."""


@dataclass(frozen=True)
class Account:
    """An account of a pool; `enabled` says whether it may sign in."""

    email: str
    enabled: bool
    groups: frozenset[str]


class Accounts:
    """The accounts of one pool; an address that has none raises NotFoundError."""

    def __init__(self, client: "CognitoIdentityProviderClient", pool_id: str) -> None:
        self._client, self._pool_id = client, pool_id

    def add(self, email: str) -> str:
        """Make an account and return its temporary password, which its first sign-in replaces. No mail is sent."""
        name, password = required_email(email), random_password()
        try:
            self._client.admin_create_user(
                UserPoolId=self._pool_id,
                Username=name,
                TemporaryPassword=password,
                MessageAction="SUPPRESS",
                # The operator has verified the address; only a verified one counts for sharing, and gets codes.
                UserAttributes=[{"Name": "email", "Value": name}, {"Name": "email_verified", "Value": "true"}],
            )
        except self._client.exceptions.UsernameExistsException:
            raise EmailTakenError(f"there is an account for {name} already") from None
        return password

    def sub_of(self, email: str) -> str:
        """Return the id of an account."""
        with self._found(email) as name:
            user = self._client.admin_get_user(UserPoolId=self._pool_id, Username=name)
        return _attribute(user["UserAttributes"], "sub")

    def set_operator(self, email: str, is_operator: bool) -> None:
        """Grant or revoke an account's permission to view and manage the fleet."""
        with self._found(email) as name:
            if is_operator:
                self._client.admin_add_user_to_group(UserPoolId=self._pool_id, Username=name, GroupName=OPERATORS)
            else:
                self._client.admin_remove_user_from_group(
                    UserPoolId=self._pool_id, Username=name, GroupName=OPERATORS
                )

    def set_enabled(self, email: str, is_enabled: bool) -> None:
        """Let an account sign in, or sign it out everywhere and let it in no more."""
        with self._found(email) as name:
            if is_enabled:
                self._client.admin_enable_user(UserPoolId=self._pool_id, Username=name)
            else:
                self._client.admin_disable_user(UserPoolId=self._pool_id, Username=name)
                self._client.admin_user_global_sign_out(UserPoolId=self._pool_id, Username=name)

    def remove(self, email: str) -> None:
        """Remove an account for good."""
        with self._found(email) as name:
            self._client.admin_delete_user(UserPoolId=self._pool_id, Username=name)

    def list(self) -> Iterator[Account]:
        """Yield every account, with its groups, which are read group by group: they are few."""
        groups: defaultdict[str, set[str]] = defaultdict(set)
        for found in self._client.get_paginator("list_groups").paginate(UserPoolId=self._pool_id):
            for name in (group["GroupName"] for group in found["Groups"]):
                members = self._client.get_paginator("list_users_in_group").paginate(
                    UserPoolId=self._pool_id, GroupName=name
                )
                for member in (user for page in members for user in page["Users"]):
                    groups[_attribute(member["Attributes"], "sub")].add(name)
        for page in self._client.get_paginator("list_users").paginate(UserPoolId=self._pool_id):
            for user in page["Users"]:
                sub, email = (_attribute(user["Attributes"], name) for name in ("sub", "email"))
                yield Account(email, user["Enabled"], frozenset(groups[sub]))

    @contextmanager
    def _found(self, email: str) -> Iterator[str]:
        name = required_email(email)
        try:
            yield name
        except self._client.exceptions.UserNotFoundException:
            raise NotFoundError(
                f"there is no account for {name}; `fleetsight users list` shows those there are"
            ) from None


def _attribute(attributes: "Sequence[AttributeTypeTypeDef]", name: str) -> str:
    return next((each.get("Value", "") for each in attributes if each["Name"] == name), "")


def random_password() -> str:
    """Return an unguessable password, with one of each kind of character that a pool may ask for."""
    return f"{secrets.token_urlsafe(15)}-Aa1"
