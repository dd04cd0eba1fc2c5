"""User pools: the pool of a client, the account of a name, protected pools, and SignUp, which pools here reject."""

from typing import Any

from localcloud.patches import Patch


def pool_of(client_id: str | None) -> tuple[Any, Any, Any]:
    """Return moto's backend, pool and client of a client's id; public calls name no region.

    Raises:
        ResourceNotFoundError: the client does not exist.
    """
    from moto.cognitoidp.exceptions import ResourceNotFoundError
    from moto.cognitoidp.models import cognitoidp_backends

    for regions in list(cognitoidp_backends.values()):
        for backend in list(regions.values()):
            for pool in list(backend.user_pools.values()):
                if client_id in pool.clients:
                    return backend, pool, pool.clients[client_id]
    raise ResourceNotFoundError(f"User pool client {client_id} does not exist.")


def prevents_existence_errors(client: Any) -> bool:
    """Return True if a client's answers must not reveal whether an account exists."""
    return bool(client.extended_config.get("PreventUserExistenceErrors") == "ENABLED")


def address_of(user: Any | None, name: str) -> str:
    """Return the address of an account, or the given name if the account does not exist or has no address."""
    return str(user.attribute_lookup.get("email", name) if user else name).lower()


def _get_user(_original: Any) -> Any:
    def get_user(self: Any, username: str) -> Any:
        """Return the account of this name, id or address, or None."""
        if (user := self.users.get(username)) is not None:
            return user
        kinds = self.extended_config.get("UsernameAttributes") or ()
        spelled = self.extended_config.get("UsernameConfiguration", {}).get("CaseSensitive", False)
        wanted = _as_compared(username, exactly=spelled)
        for user in list(self.users.values()):
            if any(_as_compared(user.attribute_lookup.get(kind), exactly=spelled) == wanted for kind in kinds):
                return user
        return None

    return get_user


def _as_compared(name: str | None, *, exactly: bool) -> str:
    return str(name) if exactly else str(name).lower()


_UNCHANGEABLE = ("AliasAttributes", "UsernameAttributes", "UsernameConfiguration")

_DELETION_PROTECTED = (
    "The user pool cannot be deleted because deletion protection is activated. "
    "Deletion protection must be inactivated first."
)


def _update_user_pool(original: Any) -> Any:
    def update_user_pool(self: Any, user_pool_id: str, extended_config: dict[str, Any]) -> None:
        """Replace the pool's settings except those that no call can change."""
        before = self.describe_user_pool(user_pool_id).extended_config
        unchanged = {name: before[name] for name in _UNCHANGEABLE if name in before}
        original(self, user_pool_id, {**extended_config, **unchanged})

    return update_user_pool


def _delete_user_pool(original: Any) -> Any:
    def delete_user_pool(self: Any, user_pool_id: str) -> None:
        """Delete the pool, unless it is protected."""
        from moto.cognitoidp.exceptions import InvalidParameterException

        if self.describe_user_pool(user_pool_id).extended_config.get("DeletionProtection") == "ACTIVE":
            raise InvalidParameterException(_DELETION_PROTECTED)
        original(self, user_pool_id)

    return delete_user_pool


def _sign_up(_original: Any) -> Any:
    from moto.cognitoidp.exceptions import NotAuthorizedError

    def sign_up(self: Any, client_id: str, username: str, password: str, attributes: Any) -> Any:  # noqa: ARG001
        """Reject the call: pools here have `AllowAdminCreateUserOnly`."""
        raise NotAuthorizedError("SignUp is not permitted for this user pool")

    return sign_up


def _confirm_sign_up(_original: Any) -> Any:
    from moto.cognitoidp.exceptions import NotAuthorizedError

    def confirm_sign_up(self: Any) -> Any:  # noqa: ARG001
        """Reject the call: administrators create all accounts."""
        raise NotAuthorizedError("User cannot be confirmed. Current status is FORCE_CHANGE_PASSWORD")

    return confirm_sign_up


PATCHES = (
    Patch(
        "moto.cognitoidp.models:CognitoIdpUserPool._get_user",
        ("self", "username"),
        _get_user,
        "compares addresses case-sensitively, and reads every attribute of every account each time",
    ),
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend.update_user_pool",
        ("self", "user_pool_id", "extended_config"),
        _update_user_pool,
        "forgets that accounts are known by their addresses",
    ),
    Patch(
        "moto.cognitoidp.models:CognitoIdpBackend.delete_user_pool",
        ("self", "user_pool_id"),
        _delete_user_pool,
        "deletes pools that are protected against it",
    ),
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
