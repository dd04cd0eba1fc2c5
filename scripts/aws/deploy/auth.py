"""Sign-in of a stack: its provider, and the keys by which sessions are signed and encrypted."""

import secrets

from scripts.aws.context import TAG, AwsAccount, AwsContext
from scripts.aws.deploy.settings import SettingError, StackSettings, parameter_values
from scripts.aws.deploy.stack import StackDescription
from scripts.aws.resources import user_pools
from services.accounts import OPERATORS, USERS

GROUPS = (USERS, OPERATORS)
"""The groups of the stack's user pool."""

CREATE_POOL, KEPT_POOL, POOL_TIER, POOL_DOMAIN = "CreateUserPool", "KeptUserPool", "UserPoolTier", "SignInDomain"
ISSUER, CLIENT, OPERATORS_GROUP = "Issuer", "ClientId", "OperatorsGroupName"
"""Parameters of the stack."""

RESERVED = ("aws", "amazon", "cognito")
"""Words that no domain of a user pool contains:
https://docs.aws.amazon.com/cognito/latest/developerguide/cognito-user-pools-assign-domain-prefix.html
"""

MAX_KEYS = 2
"""The number of keys after a rotation: sessions of the last key stay valid."""

KEY_BYTES = 48
"""The random bytes of a key."""


def has_sign_in(settings: StackSettings, stack: StackDescription | None) -> bool:
    """Return whether users sign in, by the given values, else the stack's, else the template's defaults."""
    values = parameter_values(settings, stack)
    return values[CREATE_POOL] == "true" or bool(values[ISSUER])


def check_provider(prefix: str, settings: StackSettings, stack: StackDescription | None) -> None:
    """Check that the stack has one provider of sign-in, and that the pages of a user pool can have their address.

    Raises:
        SettingError: a user pool is wanted beside another provider, or the prefix has a word that Cognito reserves.
    """
    values = parameter_values(settings, stack)
    if values[ISSUER]:
        if settings.parameters.get(CREATE_POOL) == "true":
            raise SettingError(
                f"{CREATE_POOL}=true: users sign in at {ISSUER}={values[ISSUER]}, and a stack has one provider: "
                f"leave out {CREATE_POOL}, or give --set {ISSUER}= --set {CLIENT}= for the user pool"
            )
        return
    word = next((each for each in RESERVED if each in prefix), None)
    if word and values[CREATE_POOL] == "true" and not values[POOL_DOMAIN]:
        raise SettingError(
            f"the prefix {prefix} contains {word}, which the address of a user pool's pages must not: give another "
            f"first part of the address, as --set {POOL_DOMAIN}=NAME"
        )


def kept_pool_parameters(
    account: AwsAccount, prefix: str, settings: StackSettings, stack: StackDescription | None
) -> dict[str, str]:
    """Return the parameters with which a stack without accounts adopts the user pool of an earlier stack.

    Jobs belong to accounts, and the next stack adopts buckets and table too. Of several pools it adopts the one with
    the most accounts: the pool of a failed creation has none.
    """
    values = parameter_values(settings, stack)
    if values[ISSUER] or values[CREATE_POOL] != "true" or KEPT_POOL in settings.parameters:
        return {}
    if stack is not None and "UserPoolId" in stack.outputs:
        return {}
    left = user_pools(account, prefix)
    pool = max(left, key=lambda each: (each.get("EstimatedNumberOfUsers", 0), each["CreationDate"]), default=None)
    return {} if pool is None else {KEPT_POOL: pool["Id"], POOL_TIER: pool.get("UserPoolTier", "ESSENTIALS")}


def report_access(context: AwsContext, stack: StackDescription) -> None:
    """Report how to create the first operator, what another provider must know, or that there is no sign-in."""
    account, outputs = context.account, stack.outputs
    if "Issuer" not in outputs:
        context.report(
            "There is no sign-in: all who reach the page may see and do everything. "
            f"`fleetsight up --set {CREATE_POOL}=true` changes that."
        )
    elif (pool := outputs.get("UserPoolId")) is None:
        address = outputs.get("SiteAddress", outputs["PageAddress"])
        context.report(
            f"Users sign in at {outputs['Issuer']}. Register there, for the client {stack.parameters[CLIENT]}, the "
            f"redirect URI {address}/sign-in/callback and the sign-out URI {address}/signed-out. Users of its group "
            f"{stack.parameters[OPERATORS_GROUP]} manage the fleet."
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
