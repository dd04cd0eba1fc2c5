"""Who may come in at a stack, as `up` sees to it and says it."""

import math
from typing import TYPE_CHECKING

from core.config import Auth
from scripts.aws.account import Account
from scripts.aws.deploy.settings import SettingError, StackSettings, parameter_values
from scripts.aws.deploy.stacks import Stack
from scripts.aws.deploy.template import template
from scripts.aws.operation import Operation
from scripts.aws.teardown.belongings.data import user_pools
from services.accounts import OPERATORS, USERS

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.type_defs import UserPoolTypeTypeDef

GROUPS = (USERS, OPERATORS)
"""Of the stack's user pool."""

OTHER_FACTORS = ("SmsMfaConfiguration", "EmailMfaConfiguration")
"""Second factors of a pool that this site does not ask for; a call that leaves them out would turn them off."""

WHETHER, KEPT, SENDER, SENDER_ADDRESS = "CreateUserPool", "KeptUserPool", "SenderArn", "SenderAddress"
"""The stack's parameters."""


def signs_in(wishes: StackSettings, stack: Stack | None) -> bool:
    """Return True if people are to sign in: as it is wished, else as the stack has it, else as the template does."""
    return parameter_values(template(), wishes, stack)[WHETHER] == "true"


def sign_in_hours(auth: Auth) -> str:
    """Return the stack's `SignInHours`: whole hours that the pool renews a session for, no fewer than it lasts."""
    return str(math.ceil(auth.session_hours))


def kept_accounts(account: Account, prefix: str, wishes: StackSettings, stack: Stack | None) -> dict[str, str]:
    """Return the parameters by which a stack without accounts goes on with those that an earlier one has left.

    Jobs belong to accounts, and buckets and table are the next stack's too. Of several pools it is the one with the
    most accounts: what a creation that failed has left has none.

    Raises:
        SettingError: the pool lets anybody register an account for any address.
    """
    pool = _kept_pool(account, prefix, wishes, stack) if signs_in(wishes, stack) else None
    if pool is None:
        return {}
    if not pool.get("AdminCreateUserConfig", {}).get("AllowAdminCreateUserOnly"):
        raise SettingError(
            f"{KEPT}={pool['Id']}: self-registration of this user pool is on, so anybody may choose the password of "
            "an account for an address that is not theirs: turn it off in the Cognito console, then run this again"
        )
    return {KEPT: pool["Id"]}


def refuse_unknown_sender(wishes: StackSettings, stack: Stack | None) -> None:
    """Check that mail has an address to come from: SES knows one by its identity, or one of a domain.

    Raises:
        SettingError: the identity is a domain, and no address is given.
    """
    values = parameter_values(template(), wishes, stack)
    sender, address = values[SENDER], values[SENDER_ADDRESS]
    if sender and "@" not in sender and not address:
        domain = sender.rpartition("/")[2]
        raise SettingError(
            f"{SENDER}={sender}: this identity of SES is a domain: give the address that mails come from, as "
            f"--set {SENDER_ADDRESS}=fleetsight@{domain}"
        )


def complete_kept_pool(operation: Operation, stack: Stack) -> None:
    """Give a pool that the stack has not made what it may lack: groups, and authenticator apps as second factors."""
    account, pool_id = operation.account, stack.parameters.get(KEPT, "")
    if not pool_id:
        return
    factors = account.cognito.get_user_pool_mfa_config(UserPoolId=pool_id)
    if not factors.get("SoftwareTokenMfaConfiguration", {}).get("Enabled"):
        others = {name: factors[name] for name in OTHER_FACTORS if factors.get(name)}  # type: ignore[literal-required]
        account.cognito.set_user_pool_mfa_config(
            UserPoolId=pool_id,
            SoftwareTokenMfaConfiguration={"Enabled": True},
            MfaConfiguration="ON" if factors.get("MfaConfiguration") == "ON" else "OPTIONAL",
            **others,
        )
        operation.done(f"turned on second factors, for those who want one, of the user pool {pool_id}")
    for name in GROUPS:
        try:
            account.cognito.create_group(UserPoolId=pool_id, GroupName=name)
        except account.cognito.exceptions.GroupExistsException:
            continue
        operation.done(f"made the group {name} of the user pool {pool_id}")


def say_who_may_come_in(operation: Operation, stack: Stack) -> None:
    """Say how to make an operator if there is none; or that there is no sign-in."""
    account, pool = operation.account, stack.outputs.get("UserPoolId")
    if pool is None:
        operation.say(
            "There is no sign-in: all who reach the page may see and do everything. "
            f"`fleetsight up --set {WHETHER}=true` changes that."
        )
    elif not account.cognito.list_users_in_group(UserPoolId=pool, GroupName=OPERATORS, Limit=1)["Users"]:
        at = f"--prefix {operation.prefix} --region {account.region_name}"
        operation.say(
            "No account may steer the fleet yet. Create an account on the page, or by "
            f"`./scripts/fleetsight users add EMAIL {at}`; then `./scripts/fleetsight users operator EMAIL {at}`."
        )


def _kept_pool(
    account: Account, prefix: str, wishes: StackSettings, stack: Stack | None
) -> "UserPoolTypeTypeDef | None":
    has_pool = stack is not None and "UserPoolId" in stack.outputs
    if not has_pool and KEPT not in wishes.parameters:
        left = user_pools(account, prefix)
        return max(left, key=lambda each: (each.get("EstimatedNumberOfUsers", 0), each["CreationDate"]), default=None)
    pool_id = parameter_values(template(), wishes, stack)[KEPT]
    return account.cognito.describe_user_pool(UserPoolId=pool_id)["UserPool"] if pool_id else None
