"""What sign-in is made of for a configuration."""

from datetime import UTC, datetime, timedelta

from core.config import Config
from core.personal_tokens import PersonalTokens
from core.recovery_codes import RecoveryCodes
from core.token_keys import issuer_of, jwks_url, keys_at
from core.tokens import TokenVerifier
from services.errors import ConfigError
from services.users import UserPool
from web_tier.access.access import Access, Parts
from web_tier.access.keys import SessionKeys, load_session_keys
from web_tier.access.known_accounts import KnownAccounts
from web_tier.access.session_records import SessionRecords
from web_tier.access.sessions import Renewed, Sessions, SessionTimes
from web_tier.backend import Backend


def access_to(backend: Backend) -> Access:
    """Return the sign-in that the backend's configuration asks for; it calls no service before its first use.

    Raises:
        ConfigError: when people are to sign in, and pool or session keys are missing.
    """
    auth = backend.config.auth
    if auth.mode == "none":
        return Access(None)
    if auth.user_pool_id is None or auth.client_id is None:
        raise ConfigError(
            "auth.mode is cognito, and auth.user_pool_id and auth.client_id are null: name the pool that people sign "
            "in by, and its client for the web tier"
        )
    pool_id, client_id, keys = auth.user_pool_id, auth.client_id, load_session_keys()
    return Access(lambda: _parts(backend, pool_id, client_id, keys))


def _parts(backend: Backend, pool_id: str, client_id: str, keys: SessionKeys) -> Parts:
    config, table = backend.config, backend.store.table
    pool = UserPool(backend.shared_clients().cognito_idp, pool_id, client_id)
    verifier = _verifier(config, pool_id, client_id)

    def renew(refresh_token: str) -> Renewed:
        tokens = pool.refresh(refresh_token)
        return Renewed(verifier.verify(tokens.id_token), tokens.refresh_token)

    return Parts(
        pool=pool,
        verifier=verifier,
        sessions=Sessions(SessionRecords(table), keys, _times(config), renew),
        personal_tokens=PersonalTokens(table),
        recovery_codes=RecoveryCodes(table),
        accounts=KnownAccounts(pool.account),
    )


def _verifier(config: Config, pool_id: str, client_id: str) -> TokenVerifier:
    region = config.aws.region
    address = jwks_url(config.aws.endpoint_url, region, pool_id)
    return TokenVerifier(issuer_of(region, pool_id), client_id, keys_at(address), lambda: datetime.now(UTC))


def _times(config: Config) -> SessionTimes:
    return SessionTimes(
        idle=timedelta(minutes=config.auth.session_idle_minutes).total_seconds(),
        longest=timedelta(hours=config.auth.session_hours).total_seconds(),
    )
