"""Sign-in on one machine: a user pool of the local cloud, a key for sessions, and the account of an operator."""

import secrets
from base64 import b32decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from core.credentials import PersonalTokens, Revocations, Scope
from core.provision import provision_user_pool
from fleetsight_client.api import TOKEN_VARIABLE
from localcloud.access_keys import write_private
from localcloud.cognito.mailbox import Mail
from localcloud.state.folder import SESSION_KEYS_FILE
from scripts.home import JOB_TABLE_FILE, POOL_FILE
from services.accounts import Accounts, random_password
from services.clients import Clients
from services.clock import epoch_seconds
from services.table import Table
from services.user_errors import EmailTakenError
from services.users import NewPasswordRequired, PoolTokens, UserPool
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE

OPERATOR = "operator@example.org"
"""The operator's address, in a domain that cannot be registered (RFC 2606)."""

POOL = "fleetsight"
TOKEN_DAYS = 1


@dataclass(frozen=True)
class LocalSignIn:
    """The user pool and the operator's account of a local system; both end with it, unless it has a state.

    Attributes:
        keys: file with the key of sessions.
        token: a personal token of the operator's, for the commands.
        app_key: key of the operator's authenticator app, if operators need a second factor.
    """

    pool_id: str
    client_id: str
    job_table: str
    keys: Path
    password: str = field(repr=False)
    token: str = field(repr=False)
    app_key: str | None = field(default=None, repr=False)

    def write_names(self, state_dir: Path) -> None:
        """Write the names of the pool and of the job table into `state_dir`, for `fleetsight users`."""
        write_private(state_dir / POOL_FILE, f"{self.pool_id}\n")
        write_private(state_dir / JOB_TABLE_FILE, f"{self.job_table}\n")

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings that the user pool requires."""
        return {
            "FLEETSIGHT__AUTH__USER_POOL_ID": self.pool_id,
            "FLEETSIGHT__AUTH__CLIENT_ID": self.client_id,
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables of the web tier."""
        return {KEYS_FILE_VARIABLE: str(self.keys)}


def prepare_sign_in(
    clients: Clients, job_table: str, folder: Path, name: str = POOL, *, second_factor: bool = False
) -> LocalSignIn:
    """Create the user pool `name` with an operator, and a key of sessions in a private file of `folder`.

    With `second_factor` the operator has an authenticator app. An operator of an earlier run gets a new password and
    a new app; a key of sessions stays.
    """
    pool_id, client_id = provision_user_pool(clients, name)
    accounts, pool = Accounts(clients.cognito_idp, pool_id), UserPool(clients.cognito_idp, pool_id, client_id)
    password = random_password()
    try:
        temporary = accounts.add(OPERATOR)
    except EmailTakenError:
        temporary = password
        clients.cognito_idp.admin_set_user_password(
            UserPoolId=pool_id, Username=OPERATOR, Password=password, Permanent=True
        )
        accounts.turn_off_second_factor(OPERATOR)
    accounts.set_operator(OPERATOR, is_operator=True)
    reply = pool.sign_in(OPERATOR, temporary)
    if isinstance(reply, NewPasswordRequired):
        reply = pool.set_first_password(OPERATOR, reply.session, password)
    app_key = None
    if second_factor:
        from localcloud.cognito.sign_in import STEP_SECONDS, Authenticator

        access_token = cast(PoolTokens, reply).access_token  # a new account has no second factor yet
        app_key = pool.begin_second_factor(access_token)
        app = Authenticator(secret=b32decode(app_key))
        pool.confirm_second_factor(access_token, app.code(int(app.clock() // STEP_SECONDS)))
    table = Table(clients.dynamodb, job_table)
    tokens, sub, now = PersonalTokens(table, Revocations(table)), accounts.sub_of(OPERATOR), int(epoch_seconds())
    token, _ = tokens.make(sub, OPERATOR, "scripts/run.sh", list(Scope), TOKEN_DAYS, now, second_factor)
    keys = folder / SESSION_KEYS_FILE
    if not keys.exists():
        write_private(keys, secrets.token_urlsafe(48) + "\n")
    return LocalSignIn(pool_id, client_id, job_table, keys, password, token, app_key)


def sign_in_instructions(sign_in: LocalSignIn) -> str:
    """Return how the user who has started the system signs in, on the page and with the commands."""
    app = f" The key for your authenticator app is {sign_in.app_key}." if sign_in.app_key else ""
    return (
        f"People sign in here. You are {OPERATOR}, and your password is {sign_in.password} until this command ends."
        f"{app} Other people create accounts on the page. Mails to them are shown here instead of being sent.\n"
        f"Commands act as you with: export {TOKEN_VARIABLE}={sign_in.token}"
    )


@dataclass
class MailPrinter:
    """Shows each mail that the user pool would have sent, once."""

    mails: Callable[[], Sequence[Mail]]
    show: Callable[[str], None]
    _shown: int = field(default=0, init=False)

    def print_new(self) -> None:
        """Show the mails since the last call."""
        for mail in self.mails():
            if mail.number > self._shown:
                self._shown = mail.number
                self.show(f"Mail to {mail.to}: your code is {mail.content}")
