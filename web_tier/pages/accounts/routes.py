"""The addresses of the account pages; without sign-in the guard closes all of them."""

from typing import Final

from flask import Blueprint, Flask

from web_tier.pages.accounts.account import account, make_token, revoke_token
from web_tier.pages.accounts.passwords import Forgot, Reset
from web_tier.pages.accounts.second_factor import (
    Recovery,
    SecondFactor,
    confirm_second_factor,
    new_recovery_codes,
    turn_off_second_factor,
)
from web_tier.pages.accounts.sign_in import Code, NewPassword, SignIn, sign_out
from web_tier.pages.accounts.sign_up import SignUp
from web_tier.pages.accounts.visitor import visitor, visitor_now

accounts: Final = Blueprint("accounts", __name__)


def install_accounts(app: Flask) -> None:
    """Let `app` have the account pages, and let its templates ask who looks at them: `visitor()`."""
    app.register_blueprint(accounts)
    app.jinja_env.globals["visitor"] = visitor


accounts.add_url_rule("/sign-in", view_func=SignIn.as_view("sign_in"))
accounts.add_url_rule("/new-password", view_func=NewPassword.as_view("new_password"))
accounts.add_url_rule("/sign-in/code", view_func=Code.as_view("code"))
accounts.add_url_rule("/sign-in/recovery", view_func=Recovery.as_view("recovery"))
accounts.add_url_rule("/sign-up", view_func=SignUp.as_view("sign_up"))
accounts.add_url_rule("/forgot", view_func=Forgot.as_view("forgot"))
accounts.add_url_rule("/reset", view_func=Reset.as_view("reset"))
accounts.add_url_rule("/sign-out", view_func=sign_out, methods=["POST"])
accounts.add_url_rule("/account", view_func=account, methods=["GET"])
accounts.add_url_rule("/account/visitor", view_func=visitor_now, methods=["GET"])
accounts.add_url_rule("/account/second-factor", view_func=SecondFactor.as_view("second_factor"))
accounts.add_url_rule("/account/second-factor/confirm", view_func=confirm_second_factor, methods=["POST"])
accounts.add_url_rule("/account/second-factor/off", view_func=turn_off_second_factor, methods=["POST"])
accounts.add_url_rule("/account/second-factor/recovery-codes", view_func=new_recovery_codes, methods=["POST"])
accounts.add_url_rule("/account/tokens", view_func=make_token, methods=["POST"])
accounts.add_url_rule("/account/tokens/<token_id>/revoke", view_func=revoke_token, methods=["POST"])
