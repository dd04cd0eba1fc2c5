"""The second factor of a user: setup, removal, and recovery with a code if the authenticator app is lost.

Every change requires the password, and a code if a second factor is set up: an open session alone must not be enough
to lock out its user.
"""

from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

import segno
from flask import Response, make_response, url_for
from flask.views import MethodView
from markupsafe import Markup
from werkzeug.exceptions import BadRequest, Forbidden

from core.tokens import TokenRefusedError
from services.user_errors import (
    UserPoolError,
    WrongCredentialsError,
    WrongRecoveryCodeError,
    WrongSecondFactorError,
)
from services.users import PoolTokens, required_email
from web_tier.auth.audit import (
    FAILED_SIGN_IN,
    RECOVERY_CODE_USED,
    RECOVERY_CODES_MADE,
    SECOND_FACTOR_OFF,
    SECOND_FACTOR_ON,
    audit_as,
)
from web_tier.auth.context import AuthServices, current_auth
from web_tier.auth.identity import current_identity
from web_tier.auth.permissions import Right, is_required_of, lacks_second_factor
from web_tier.http.rate_limits import count_code
from web_tier.http.routes import Attempt, Routes
from web_tier.pages.account import form_field, next_path, proven_identity, redirect_to, render_error, render_page
from web_tier.pages.sign_in import CODE_CHALLENGE, continue_sign_in, open_challenge, sign_in_with

ISSUER: Final = "Fleetsight"
"""Name that authenticator apps show with the account."""

REQUIRED: Final = "This site requires a second factor of you. Set it up to continue."
SIGN_IN_AGAIN: Final = (
    "This site requires a second factor of you. Sign out, and sign in again with a code of your app."
)
CODE_TOO_LATE: Final = "That took longer than a few minutes. Sign in again."
IS_OFF: Final = "Your second factor is off."

SETUP: Final = "second factor"
"""Purpose of the sealed value that the browser has during setup: the key, and an access token."""

SETUP_SECONDS: Final = 60 * 60
"""How long the access token is valid."""


second_factor_pages = Routes("second_factor", needs_sign_in=True)


@second_factor_pages.view(
    "/account/second-factor", "second_factor", right=Right.CREDENTIALS, attempt=Attempt.PASSWORD
)
class SecondFactorPage(MethodView):
    """The page with the state of the second factor, on which the setup begins."""

    def get(self) -> Response:
        """Show the state."""
        context = _context()
        message = (SIGN_IN_AGAIN if context["is_on"] else REQUIRED) if context["is_missing"] else None
        return render_page("second_factor", message=message, **context)

    def post(self) -> Response:
        """Check the password, and show a new key for the app."""
        access = current_auth()
        try:
            outcome = access.pool.sign_in(current_identity().email, form_field("password"))
            if not isinstance(outcome, PoolTokens):  # it was set up in another window
                return _redirect_to_state()
            secret = access.pool.begin_second_factor(outcome.access_token)
        except UserPoolError as error:
            return render_error("second_factor", error, **_context())
        return render_page("second_factor_setup", **_setup_context(access, secret, outcome.access_token))


@second_factor_pages.post("/account/second-factor/confirm", right=Right.CREDENTIALS, attempt=Attempt.CODE)
def confirm_second_factor() -> Response:
    """Turn on the second factor if the code is of the key that was shown; then show recovery codes once.

    Every session and token of the account ends, here and in the pool: it was made from the password alone. This
    browser goes on in a new session: its user has just shown the password and a code.
    """
    access, identity = current_auth(), current_identity()
    secret, access_token = _setup(access, identity.owner)
    try:
        access.pool.confirm_second_factor(access_token, form_field("code"))
    except WrongSecondFactorError as error:
        return render_error("second_factor_setup", error, **_setup_context(access, secret, access_token))
    except UserPoolError as error:
        return render_error("second_factor", error, **_context())
    audit_as(SECOND_FACTOR_ON, identity.email)
    access.pool.sign_out_everywhere(identity.owner)
    account = access.pool.account(identity.owner)
    if account is None or not account.second_factor:
        # Meanwhile another window requested a new key, which turns the factor off. From now on that is not possible.
        return _redirect_to_state()
    access.end_all_of(identity.owner)
    codes = access.recovery_codes.replace(identity.owner)
    claims, now = access.verifier.verify(access_token), int(access.sessions.clock.epoch_seconds())
    claims = replace(claims, email=account.email, groups=account.groups, signed_in=now)
    answer = access.begin_session(claims, "", make_response(), second_factor=True)
    answer.set_data(render_page("recovery_codes", codes=codes).get_data())
    return answer


@second_factor_pages.post("/account/second-factor/off", right=Right.CREDENTIALS, attempt=Attempt.PASSWORD)
def turn_off_second_factor() -> Response:
    """Turn off the second factor, so that the password alone signs in."""
    identity, access = current_identity(), current_auth()
    if is_required_of(identity):
        raise Forbidden("this site requires a second factor of you, so it cannot be turned off")
    if (refusal := _refusal_of_user()) is not None:
        return refusal
    audit_as(SECOND_FACTOR_OFF, identity.email)
    _remove(access, identity.owner)
    return render_page("second_factor", message=IS_OFF, **_context())


@second_factor_pages.post("/account/second-factor/recovery-codes", right=Right.CREDENTIALS, attempt=Attempt.PASSWORD)
def new_recovery_codes() -> Response:
    """Replace the recovery codes and show the new ones once."""
    identity, access = current_identity(), current_auth()
    if (refusal := _refusal_of_user()) is not None:
        return refusal
    audit_as(RECOVERY_CODES_MADE, identity.email)
    return render_page("recovery_codes", codes=access.recovery_codes.replace(identity.owner))


@second_factor_pages.view("/sign-in/code", "code", right=Right.PUBLIC, attempt=Attempt.CODE)
class CodePage(MethodView):
    """The page on which a user with a second factor enters a code of the authenticator app, or a recovery code."""

    def get(self) -> Response:
        """Redirect to the sign-in: this page follows it."""
        return redirect_to(url_for("sign_in.sign_in"))

    def post(self) -> Response:
        """Sign in with the code; a recovery code turns off the second factor."""
        access, challenge = current_auth(), open_challenge(CODE_CHALLENGE)
        if challenge is None:
            return render_page("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=CODE_TOO_LATE)
        email, session, password = challenge
        try:
            if form_field("recovery_code"):
                return _recover(access, email, password)
            count_code(email)
            audit_as(FAILED_SIGN_IN, email)
            tokens = access.pool.answer_code(email, session, form_field("code"))
        except UserPoolError as error:
            if isinstance(error, WrongCredentialsError) and not isinstance(error, WrongSecondFactorError):
                return render_page("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=CODE_TOO_LATE)
            return render_error("code", error, challenge=form_field("challenge"))
        return sign_in_with(tokens, redirect_to(next_path()), second_factor=True)


def _recover(access: AuthServices, email: str, password: str) -> Response:
    audit_as(FAILED_SIGN_IN, email)
    account = access.pool.account(required_email(email))
    if account is None or not access.recovery_codes.has(account.sub, form_field("recovery_code")):
        raise WrongRecoveryCodeError
    audit_as(RECOVERY_CODE_USED, email)
    _remove(access, account.sub)  # if the pool fails, the codes stay valid
    access.end_all_of(account.sub)  # who has the lost app may have a session
    outcome = access.pool.sign_in(email, password)
    if isinstance(outcome, PoolTokens):
        return sign_in_with(outcome, _redirect_to_state(), action=RECOVERY_CODE_USED)
    return continue_sign_in(outcome, email, password)


def _remove(access: AuthServices, owner: str) -> None:
    access.pool.remove_second_factor(owner)
    access.accounts.evict(owner)
    access.recovery_codes.remove(owner)


def _refusal_of_user() -> Response | None:
    """Check the password and the code of the user.

    Returns:
        None if both are right; else the answer: what was wrong, or the state if there is no second factor to change.
    """
    try:
        with proven_identity() as proof:
            return None if proof.by_code else _redirect_to_state()
    except UserPoolError as error:
        return render_error("second_factor", error, **_context())


def _redirect_to_state() -> Response:
    return redirect_to(url_for("second_factor.second_factor"))


def _context() -> dict[str, Any]:
    identity, access = current_identity(), current_auth()
    account = access.pool.account(identity.owner)
    is_on = account is not None and account.second_factor
    return {
        "is_on": is_on,
        "is_required": is_required_of(identity),
        "is_missing": lacks_second_factor(identity),
        "has_codes": access.recovery_codes.exist(identity.owner),
    }


def _setup_context(access: AuthServices, secret: str, access_token: str) -> dict[str, Any]:
    """Return the values of the setup form, with a QR code for authenticator apps as SVG.

    https://github.com/google/google-authenticator/wiki/Key-Uri-Format
    """
    label = quote(f"{ISSUER}:{current_identity().email}", safe="")
    address = f"otpauth://totp/{label}?{urlencode({'secret': secret, 'issuer': ISSUER})}"
    svg = segno.make_qr(address, error="m").svg_inline(scale=4, border=2)
    return {
        "secret": secret,
        "qr": Markup(svg),  # nosec B704 # noqa: S704 - squares only: it holds none of the text
        "setup": access.sessions.keys.seal(SETUP, secret, access_token),
    }


def _setup(access: AuthServices, owner: str) -> tuple[str, str]:
    """Return the key and the access token of the setup form."""
    sealed = access.sessions.keys.unseal(form_field("setup"), SETUP, seconds=SETUP_SECONDS)
    if sealed is not None:
        secret, access_token = sealed
        with suppress(TokenRefusedError):
            if access.verifier.verify(access_token).sub == owner:
                return secret, access_token
    raise BadRequest(f"the key is too old, or not yours: start again at {url_for('second_factor.second_factor')}")
