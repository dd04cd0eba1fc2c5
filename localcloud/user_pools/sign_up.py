"""SignUp and ConfirmSignUp, which anybody may call unsigned.

The pools here do not permit them (`AllowAdminCreateUserOnly`).
"""

from typing import Any

from localcloud.patches import Patch


def _sign_up(_original: Any) -> Any:
    from moto.cognitoidp.exceptions import NotAuthorizedError

    def sign_up(self: Any, client_id: str, username: str, password: str, attributes: Any) -> Any:  # noqa: ARG001
        """Refuse, in Cognito's words."""
        raise NotAuthorizedError("SignUp is not permitted for this user pool")

    return sign_up


def _confirm_sign_up(_original: Any) -> Any:
    from moto.cognitoidp.exceptions import NotAuthorizedError

    def confirm_sign_up(self: Any) -> Any:  # noqa: ARG001
        """Refuse, in Cognito's words: an administrator made every account."""
        raise NotAuthorizedError("User cannot be confirmed. Current status is FORCE_CHANGE_PASSWORD")

    return confirm_sign_up


PATCHES = (
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend.sign_up",
        ("self", "client_id", "username", "password", "attributes"),
        _sign_up,
        "lets people sign up where only administrators may create accounts",
    ),
    Patch(
        "moto.cognitoidp.responses:CognitoIdpResponse.confirm_sign_up",
        ("self",),
        _confirm_sign_up,
        "confirms any account with any code",
    ),
)
