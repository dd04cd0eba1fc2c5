"""Sign-in of a stack: its user pool, and the keys by which sessions are signed and encrypted."""

import secrets
from typing import TYPE_CHECKING

from scripts.aws.context import TAG, AwsAccount, AwsContext
from scripts.aws.deploy.settings import SettingError, StackSettings, parameter_values
from scripts.aws.deploy.stack import StackDescription
from scripts.aws.resources import user_pools
from services.accounts import OPERATORS, USERS

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.type_defs import UserPoolTypeTypeDef

GROUPS = (USERS, OPERATORS)
"""The groups of the stack's user pool."""

OTHER_FACTORS = ("SmsMfaConfiguration", "EmailMfaConfiguration")
"""Second factors that the page does not support; a call without them would turn them off."""

CREATE_POOL, KEPT_POOL, SENDER, SENDER_ADDRESS = "CreateUserPool", "KeptUserPool", "SenderArn", "SenderAddress"
"""Parameters of the stack."""

MAX_KEYS = 2
"""The number of keys after a rotation: sessions of the last key stay valid."""

KEY_BYTES = 48
"""The random bytes of a key."""


def has_sign_in(settings: StackSettings, stack: StackDescription | None) -> bool:
    """Return whether users sign in: the given value, else the stack's, else the template's default."""
    return parameter_values(settings, stack)[CREATE_POOL] == "true"


def kept_pool_parameters(
    account: AwsAccount, prefix: str, settings: StackSettings, stack: StackDescription | None
) -> dict[str, str]:
    """Return the parameters with which a stack without accounts adopts the user pool of an earlier stack.

    Jobs belong to accounts, and the next stack adopts buckets and table too. Of several pools it adopts the one with
    the most accounts: the pool of a failed creation has none.

    Raises:
        SettingError: anyone can register an account for any address in the pool.
    """
    if not has_sign_in(settings, stack):
        return {}
    pool: UserPoolTypeTypeDef | None = None
    if (stack is None or "UserPoolId" not in stack.outputs) and KEPT_POOL not in settings.parameters:
        left = user_pools(account, prefix)
        pool = max(left, key=lambda each: (each.get("EstimatedNumberOfUsers", 0), each["CreationDate"]), default=None)
    elif pool_id := parameter_values(settings, stack)[KEPT_POOL]:
        pool = account.cognito.describe_user_pool(UserPoolId=pool_id)["UserPool"]
    if pool is None:
        return {}
    if not pool.get("AdminCreateUserConfig", {}).get("AllowAdminCreateUserOnly"):
        raise SettingError(
            f"{KEPT_POOL}={pool['Id']}: self-registration of this user pool is on, so anyone can choose the "
            "password of an account for an address that is not theirs: turn it off in the Cognito console, then run "
            "this again"
        )
    return {KEPT_POOL: pool["Id"]}


def check_sender(settings: StackSettings, stack: StackDescription | None) -> None:
    """Check that mail has a sender: an identity of SES is an address, or a domain that needs an address.

    Raises:
        SettingError: the identity is a domain, and no address of it or of a subdomain is given.
    """
    values = parameter_values(settings, stack)
    sender, address = values[SENDER], values[SENDER_ADDRESS].rstrip(">")
    domain = sender.rpartition("/")[2]
    if sender and "@" not in sender and not f".{address.rpartition('@')[2]}".endswith(f".{domain}"):
        raise SettingError(
            f"{SENDER}={sender}: this identity of SES is a domain: give the address that mails come from, of the "
            f"domain or a subdomain, as --set {SENDER_ADDRESS}=fleetsight@{domain}"
        )


def complete_kept_pool(context: AwsContext, stack: StackDescription) -> None:
    """Complete an adopted user pool: create groups, and allow authenticator apps as second factor."""
    account, pool_id = context.account, stack.parameters.get(KEPT_POOL, "")
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
        context.report_change(f"turned on second factors, for those who want one, of the user pool {pool_id}")
    for name in GROUPS:
        try:
            account.cognito.create_group(UserPoolId=pool_id, GroupName=name)
        except account.cognito.exceptions.GroupExistsException:
            continue
        context.report_change(f"made the group {name} of the user pool {pool_id}")


def report_access(context: AwsContext, stack: StackDescription) -> None:
    """Report how to create an operator if there is none, or that there is no sign-in."""
    account, pool = context.account, stack.outputs.get("UserPoolId")
    if pool is None:
        context.report(
            "There is no sign-in: all who reach the page may see and do everything. "
            f"`fleetsight up --set {CREATE_POOL}=true` changes that."
        )
    elif not account.cognito.list_users_in_group(UserPoolId=pool, GroupName=OPERATORS, Limit=1)["Users"]:
        at = f"--prefix {context.prefix} --region {account.region_name}"
        context.report(
            "No account can manage the fleet yet. Create an account on the page, or by "
            f"`./scripts/fleetsight users add EMAIL {at}`; then `./scripts/fleetsight users operator EMAIL {at}`."
        )


def session_keys_parameter(prefix: str) -> str:
    """Return the name of the parameter with the keys of sessions; the stack's user data and policy contain it too.

    The parameter is a SecureString that only the web tier's role can read. Each line is a key: the first one signs,
    all of them verify (`web_tier/auth/session_keys.py`). The commands create it, not the stack: a template can
    generate secrets only in Secrets Manager, which costs $0.40 a month and keeps one value, not the last key beside
    the new one. No key is ever printed.
    """
    return f"/{prefix}/session-keys"


def ensure_session_key(context: AwsContext) -> bool:
    """Create a key for sessions unless one exists, and return whether one was created."""
    account, name = context.account, session_keys_parameter(context.prefix)
    try:
        account.ssm.put_parameter(
            Name=name,
            Description="Signs and encrypts sessions: a key a line, the first one signs, all of them verify",
            Value=secrets.token_urlsafe(KEY_BYTES),
            Type="SecureString",
            Tags=[{"Key": TAG, "Value": context.prefix}],
        )
    except account.ssm.exceptions.ParameterAlreadyExists:
        return False
    context.report_change(f"made a key for sessions, in the parameter {name}; it was never shown")
    return True


def rotate_session_key(context: AwsContext) -> None:
    """Insert a new key before the present one, and drop older ones."""
    if ensure_session_key(context):
        return
    account, name = context.account, session_keys_parameter(context.prefix)
    keys = account.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"].split()
    value = "\n".join([secrets.token_urlsafe(KEY_BYTES), *keys][:MAX_KEYS])
    account.ssm.put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
    context.report_change(f"put a new key for sessions first, in the parameter {name}; it was never shown")
