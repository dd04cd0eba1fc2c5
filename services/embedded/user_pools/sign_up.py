"""New accounts that people make: by a code that is sent to their address."""

import threading
from typing import Any

from services.embedded.mend import Addition, Mend
from services.embedded.user_pools.codes import codes
from services.embedded.user_pools.delivery import delivery, send_code
from services.embedded.user_pools.pools import address_of, hides_who_exists, pool_of

_one_at_a_time = threading.Lock()


def _sign_up(original: Any) -> Any:
    from moto.cognitoidp.exceptions import NotAuthorizedError

    def sign_up(self: Any, client_id: str, username: str, password: str, attributes: Any) -> Any:
        """Make an account, and mail the code that confirms its address."""
        _, pool, _ = pool_of(client_id)
        if pool.extended_config.get("AdminCreateUserConfig", {}).get("AllowAdminCreateUserOnly"):
            raise NotAuthorizedError("SignUp is not permitted for this user pool")
        with _one_at_a_time:
            user, details = original(self, client_id, username, password, attributes)
        if "email" in user.attribute_lookup and "email" in pool.extended_config.get("AutoVerifiedAttributes", ()):
            address = address_of(user, username)
            send_code((pool.id, address, "confirm"))
            details = delivery(address)
        return user, details

    return sign_up


def _confirm_sign_up(_original: Any) -> Any:
    from moto.cognitoidp.exceptions import CodeMismatchException, ExpiredCodeException, NotAuthorizedError
    from moto.cognitoidp.models import UserStatus
    from moto.core.responses import EmptyResult

    def confirm_sign_up(self: Any) -> Any:
        """Confirm an account by the code that was sent to its address."""
        name = str(self._get_param("Username"))
        _, pool, _ = pool_of(self._get_param("ClientId"))
        user = pool._get_user(name)
        if user is not None and user.status is not UserStatus.UNCONFIRMED:
            raise NotAuthorizedError(f"User cannot be confirmed. Current status is {user.status.value}")
        try:
            codes.use((pool.id, address_of(user, name), "confirm"), str(self._get_param("ConfirmationCode")))
        except ExpiredCodeException:
            if user is not None:
                raise
        if user is None:
            raise CodeMismatchException("Invalid verification code provided, please try again.")
        user.status = UserStatus.CONFIRMED
        user.update_attributes([{"Name": "email_verified", "Value": "true"}])
        return EmptyResult()

    return confirm_sign_up


def resend_confirmation_code(self: Any) -> Any:
    """Mail another code to the address of an account that is not confirmed; say so where there is none."""
    from moto.cognitoidp.exceptions import InvalidParameterException, UserNotFoundError
    from moto.cognitoidp.models import UserStatus
    from moto.core.responses import ActionResult

    name = str(self._get_param("Username"))
    _, pool, client = pool_of(self._get_param("ClientId"))
    user = pool._get_user(name)
    if user is None and not hides_who_exists(client):
        raise UserNotFoundError("Username/client id combination not found.")
    if user is not None and user.status is not UserStatus.UNCONFIRMED:
        raise InvalidParameterException("User is already confirmed.")
    address = address_of(user, name)
    send_code((pool.id, address, "confirm"), posted=user is not None)
    return ActionResult({"CodeDeliveryDetails": delivery(address)})


MENDS = (
    Mend(
        "moto.cognitoidp.models:CognitoIdpBackend.sign_up",
        ("self", "client_id", "username", "password", "attributes"),
        _sign_up,
        "sends no code, lets people sign up where only ops may make accounts, and one address twice at once",
    ),
    Mend(
        "moto.cognitoidp.responses:CognitoIdpResponse.confirm_sign_up",
        ("self",),
        _confirm_sign_up,
        "confirms whatever the code, and verifies no address",
    ),
    Addition(
        "moto.cognitoidp.responses:CognitoIdpResponse.resend_confirmation_code",
        resend_confirmation_code,
        "has no way to another code",
    ),
)
