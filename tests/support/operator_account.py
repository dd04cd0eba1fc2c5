"""An operator's account in a user pool, and the authenticator app of a user."""

import time
from base64 import b32decode
from dataclasses import dataclass, field

import requests

from core.credentials import RecoveryCodes
from core.provision import provision_user_pool
from localcloud.clients import mails
from localcloud.cognito.sign_in import STEP_SECONDS, Authenticator
from services.accounts import Accounts
from services.clients import Clients
from services.table import Table
from services.users import PoolTokens, UserPool

EMAIL = "ops@example.org"
PASSWORD = "A-password-of-0ne-who-operates"
NEW_PASSWORD = "An0ther-password-after-that"


@dataclass
class Operator:
    """The account; it is created with its password."""

    clients: Clients
    pool_id: str
    client_id: str

    @classmethod
    def of_a_new_pool(cls, clients: Clients) -> "Operator":
        """Create the account in a new pool."""
        return cls(clients, *provision_user_pool(clients, "fleetsight"))

    def __post_init__(self) -> None:
        """Create the account."""
        accounts, pool = Accounts(self.clients.cognito_idp, self.pool_id), self._pool
        accounts.add(EMAIL)
        self.clients.cognito_idp.admin_set_user_password(
            UserPoolId=self.pool_id, Username=EMAIL, Password=PASSWORD, Permanent=True
        )
        accounts.set_operator(EMAIL, True)
        assert isinstance(pool.sign_in(EMAIL, PASSWORD), PoolTokens)

    @property
    def _pool(self) -> UserPool:
        return UserPool(self.clients.cognito_idp, self.pool_id, self.client_id)

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the pool for a web tier."""
        return {"FLEETSIGHT__AUTH__USER_POOL_ID": self.pool_id, "FLEETSIGHT__AUTH__CLIENT_ID": self.client_id}

    def id_token(self) -> str:
        """Sign in and return a token of the pool."""
        tokens = self._pool.sign_in(EMAIL, PASSWORD)
        assert isinstance(tokens, PoolTokens)
        return tokens.id_token

    def personal_token(self, url: str) -> str:
        """Create a token at the web tier with this address."""
        wanted = {"name": "a test", "scopes": ["classify", "read", "operate"], "days": 1}
        headers = {"Authorization": self.id_token()}
        answer = requests.post(f"{url}/api/v1/tokens", json=wanted, headers=headers, timeout=120)
        answer.raise_for_status()
        return str(answer.json()["token"])

    def invites(self, url: str, email: str) -> None:
        """Create an account for `email` at the web tier, and check that a mail was sent."""
        requests.post(f"{url}/sign-up", data={"email": email, "password": PASSWORD}, timeout=120).raise_for_status()
        assert self.clients.endpoint.url is not None
        assert [mail.purpose for mail in mails(self.clients.endpoint.url) if mail.to == email] == ["invitation"]

    def forgets(self, url: str) -> None:
        """Set another password at the web tier by the mailed code."""
        requests.post(f"{url}/forgot", data={"email": EMAIL}, timeout=120).raise_for_status()
        assert self.clients.endpoint.url is not None
        code = [mail.content for mail in mails(self.clients.endpoint.url) if mail.to == EMAIL][-1]
        wanted = {"email": EMAIL, "code": code, "password": NEW_PASSWORD}
        requests.post(f"{url}/reset", data=wanted, timeout=120).raise_for_status()
        assert isinstance(self._pool.sign_in(EMAIL, NEW_PASSWORD), PoolTokens)

    def loses_their_app(self, url: str, job_table: str) -> None:
        """Set up a second factor, and sign in at the web tier by a recovery code; the password is `NEW_PASSWORD`."""
        tokens, account = self._pool.sign_in(EMAIL, NEW_PASSWORD), self._pool.account(EMAIL)
        assert isinstance(tokens, PoolTokens)
        assert account is not None
        app = App(self._pool.begin_second_factor(tokens.access_token))
        self._pool.confirm_second_factor(tokens.access_token, app.code())
        code = RecoveryCodes(Table(self.clients.dynamodb, job_table)).replace(account.sub)[0]
        known = {"email": EMAIL, "password": NEW_PASSWORD}
        asked = requests.post(f"{url}/sign-in", data=known, timeout=120).text
        wanted = {
            "challenge": asked.partition('name="challenge" value="')[2].partition('"')[0],
            "recovery_code": code,
        }
        answer = requests.post(f"{url}/sign-in/code", data=wanted, timeout=120, allow_redirects=False)
        assert answer.status_code == 303, answer.text
        assert isinstance(self._pool.sign_in(EMAIL, NEW_PASSWORD), PoolTokens)


@dataclass
class App:
    """Shows the codes of a key; a code that was shown is not shown again.

    Attributes:
        key: in Base32, as the page shows it.
    """

    key: str
    _shown: int = field(default=-1, init=False)

    def code(self) -> str:
        """Return the code of now, or the next one if that was shown; pools take both. A third code comes later."""
        self._shown = max(int(time.time()) // STEP_SECONDS, self._shown + 1)
        return Authenticator(secret=b32decode(self.key)).code(self._shown)
