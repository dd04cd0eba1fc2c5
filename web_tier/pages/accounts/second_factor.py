"""The second factor of a user: set up, turned off, and removed by a recovery code when the app is lost.

Every change asks for the password, and for a code where there is a second factor already: an open session alone
must not be enough to lock its user out.
"""

from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, urlencode

import segno
from flask import Response, url_for
from flask.views import MethodView
from markupsafe import Markup
from werkzeug.exceptions import BadRequest, Forbidden

from core.tokens import TokenRefusedError
from services.user_errors import UserPoolError, WrongRecoveryCodeError, WrongSecondFactorError
from services.users import CodeWanted, PoolTokens, required_email
from web_tier.audit import RECOVERY_CODE_USED, RECOVERY_CODES_MADE, SECOND_FACTOR_OFF, SECOND_FACTOR_ON, audit_as
from web_tier.auth.context import AuthContext, current_auth
from web_tier.auth.identity import current_identity, set_identity, set_session
from web_tier.auth.permissions import is_required_of, lacks_second_factor
from web_tier.pages.accounts.show import go_to, refuse, show, typed
from web_tier.pages.accounts.sign_in import gone_on
from web_tier.rate_limits.limiter import count_code

ISSUER: Final = "Fleetsight"
"""What authenticator apps show beside the account."""

REQUIRED: Final = "This site requires a second factor of you. Set it up to go on."
SIGN_IN_AGAIN: Final = (
    "This site requires a second factor of you. Sign out, and sign in again with a code of your app."
)
IS_OFF: Final = "Your second factor is off."

SETUP: Final = "second factor"
"""What is sealed for the browser while a key is set up: the key, and the tokens of a sign-in."""

SETUP_SECONDS: Final = 60 * 60
"""How long the access token is good."""


class SecondFactor(MethodView):
    """The page that says whether there is one, and begins to set one up."""

    def get(self) -> Response:
        """Show it."""
        facts = _facts()
        told = (SIGN_IN_AGAIN if facts["is_on"] else REQUIRED) if facts["is_missing"] else None
        return show("second_factor", told=told, **facts)

    def post(self) -> Response:
        """Check the password, and show a new key for the app."""
        access = current_auth()
        try:
            outcome = access.pool.sign_in(current_identity().email, typed("password"))
            if not isinstance(outcome, PoolTokens):  # it has been set up in another window
                return _back()
            secret = access.pool.begin_second_factor(outcome.access_token)
        except UserPoolError as error:
            return refuse("second_factor", error, **_facts())
        return show("second_factor_setup", **_setup_facts(access, secret, outcome.access_token))


def confirm_second_factor() -> Response:
    """Turn the second factor on if the code is of the key that was shown; then show recovery codes, this once.

    Every sign-in of the account ends with it, here and in the pool: what a password alone has opened must not last.
    """
    access, identity = current_auth(), current_identity()
    secret, access_token = _setup(access, identity.owner)
    try:
        access.pool.confirm_second_factor(access_token, typed("code"))
    except WrongSecondFactorError as error:
        return refuse("second_factor_setup", error, **_setup_facts(access, secret, access_token))
    except UserPoolError as error:
        return refuse("second_factor", error, **_facts())
    audit_as(SECOND_FACTOR_ON, identity.email)
    access.pool.sign_out_everywhere(identity.owner)
    access.accounts.evict(identity.owner)
    account = access.pool.account(identity.owner)
    if account is None or not account.second_factor:
        # Another window asked for a new key meanwhile, which turns the factor off. Now it could not any more.
        return _back()
    access.sessions.end_all_of(identity.owner)
    codes = access.recovery_codes.replace(identity.owner)
    set_identity(None)
    set_session(None)
    return access.end(show("recovery_codes", codes=codes))


def turn_off_second_factor() -> Response:
    """Have the account sign in by its password alone."""
    identity, access = current_identity(), current_auth()
    if is_required_of(identity):
        raise Forbidden("this site requires a second factor of you, so it cannot be turned off")
    try:
        if not _proves(access):
            return _back()
    except UserPoolError as error:
        return refuse("second_factor", error, **_facts())
    audit_as(SECOND_FACTOR_OFF, identity.email)
    _remove(access, identity.owner)
    return show("second_factor", told=IS_OFF, **_facts())


def new_recovery_codes() -> Response:
    """Show new recovery codes, this once; the old ones are good no longer."""
    identity, access = current_identity(), current_auth()
    try:
        if not _proves(access):
            return _back()
    except UserPoolError as error:
        return refuse("second_factor", error, **_facts())
    audit_as(RECOVERY_CODES_MADE, identity.email)
    return show("recovery_codes", codes=access.recovery_codes.replace(identity.owner))


class Recovery(MethodView):
    """The page on which a user who has lost the authenticator app signs in with a recovery code."""

    def get(self) -> Response:
        """Show it."""
        return show("recovery")

    def post(self) -> Response:
        """Turn the second factor off by the code, and sign in; without a second factor, sign in."""
        access, email, password = current_auth(), typed("email"), typed("password")
        try:
            outcome = access.pool.sign_in(email, password)
            if isinstance(outcome, CodeWanted):
                _remove_by_code(access, email, typed("recovery_code"))
                outcome = access.pool.sign_in(email, password)
        except UserPoolError as error:
            return refuse("recovery", error)
        if not isinstance(outcome, PoolTokens):
            return gone_on(outcome)
        return access.begin(outcome, _back())


def _remove_by_code(access: AuthContext, email: str, code: str) -> None:
    """Remove the second factor of an account after the right password, if a recovery code is one of its own.

    If the pool fails, the codes are still good; once the factor is removed they are good for nothing.
    """
    account = access.pool.account(required_email(email))
    if account is None or not access.recovery_codes.has(account.sub, code):
        raise WrongRecoveryCodeError
    audit_as(RECOVERY_CODE_USED, email)
    _remove(access, account.sub)


def _remove(access: AuthContext, owner: str) -> None:
    access.pool.remove_second_factor(owner)
    access.accounts.evict(owner)
    access.recovery_codes.remove(owner)


def _proves(access: AuthContext) -> bool:
    """Check password and code of the user at the page, by a sign-in that is ended at once.

    Returns:
        False if the pool asks for no code, so that there is no second factor to change.

    Raises:
        WrongCredentialsError, WrongSecondFactorError: one of them is wrong.
    """
    email = current_identity().email
    outcome = access.pool.sign_in(email, typed("password"))
    if isinstance(outcome, CodeWanted):
        count_code(email)
        tokens = access.pool.answer_code(email, outcome.session, typed("code"))
        access.revoke(tokens.refresh_token)
        return True
    if isinstance(outcome, PoolTokens):
        access.revoke(outcome.refresh_token)
    return False


def _back() -> Response:
    return go_to(url_for("accounts.second_factor"))


def _facts() -> dict[str, Any]:
    identity, access = current_identity(), current_auth()
    account = access.pool.account(identity.owner)
    is_on = account is not None and account.second_factor
    return {
        "is_on": is_on,
        "is_required": is_required_of(identity),
        "is_missing": lacks_second_factor(identity),
        "has_codes": access.recovery_codes.exist(identity.owner),
    }


def _setup_facts(access: AuthContext, secret: str, access_token: str) -> dict[str, Any]:
    """Return what the form shows, and what it sends back."""
    email = current_identity().email
    return {
        "secret": secret,
        "qr": _qr_code(secret, email),
        "setup": access.sessions.keys.seal(SETUP, secret, access_token),
    }


def _setup(access: AuthContext, owner: str) -> tuple[str, str]:
    """Return the key and the access token that the form of this user has sent back.

    Raises:
        BadRequest: they are not ours, another user's, or more than an hour old.
    """
    sealed = access.sessions.keys.unseal(typed("setup"), SETUP, seconds=SETUP_SECONDS)
    if sealed is not None:
        secret, access_token = sealed
        with suppress(TokenRefusedError):
            if access.verifier.verify(access_token).sub == owner:
                return secret, access_token
    raise BadRequest(f"the key is too old, or not yours: start again at {url_for('accounts.second_factor')}")


def _qr_code(secret: str, email: str) -> Markup:
    """Return an SVG of what authenticator apps scan.

    https://github.com/google/google-authenticator/wiki/Key-Uri-Format
    """
    label = quote(f"{ISSUER}:{email}", safe="")
    address = f"otpauth://totp/{label}?{urlencode({'secret': secret, 'issuer': ISSUER})}"
    svg = segno.make_qr(address, error="m").svg_inline(scale=4, border=2)
    return Markup(svg)  # nosec B704 # noqa: S704 - squares only: it holds none of the text
