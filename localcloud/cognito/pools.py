"""User pools: the pool of a client, the account of a name, protected pools, and SignUp, which pools here reject."""

from typing import Any

from moto.cognitoidp.exceptions import InvalidParameterException, NotAuthorizedError, ResourceNotFoundError
from moto.cognitoidp.models import cognitoidp_backends

from localcloud.patches import Patches

PATCHES = Patches()


def pool_of(client_id: str | None) -> tuple[Any, Any, Any]:
    """Return moto's backend, pool and client of a client's id; public calls name no region."""
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


@PATCHES.replace(
    "moto.cognitoidp.models:CognitoIdpUserPool._get_user",
    "compares addresses case-sensitively, and reads every attribute of every account each time",
)
def get_user(self: Any, username: str) -> Any:
    """Return the account of this name, id or address, or None."""
    if (user := self.users.get(username)) is not None:
        return user
    kinds = self.extended_config.get("UsernameAttributes") or ()
    is_exact = self.extended_config.get("UsernameConfiguration", {}).get("CaseSensitive", False)
    compared = str if is_exact else lambda name: str(name).lower()
    wanted = compared(username)
    for user in list(self.users.values()):
        if any(compared(user.attribute_lookup.get(kind)) == wanted for kind in kinds):
            return user
    return None


_UNCHANGEABLE = ("AliasAttributes", "UsernameAttributes", "UsernameConfiguration")


@PATCHES.wrap(
    "moto.cognitoidp.models:CognitoIdpBackend.update_user_pool", "forgets that accounts are known by their addresses"
)
def update_user_pool(original: Any, self: Any, user_pool_id: str, extended_config: dict[str, Any]) -> None:
    """Replace the pool's settings except those that no call can change."""
    before = self.describe_user_pool(user_pool_id).extended_config
    unchanged = {name: before[name] for name in _UNCHANGEABLE if name in before}
    original(self, user_pool_id, {**extended_config, **unchanged})


@PATCHES.wrap(
    "moto.cognitoidp.models:CognitoIdpBackend.delete_user_pool", "deletes pools that are protected against it"
)
def delete_user_pool(original: Any, self: Any, user_pool_id: str) -> None:
    """Delete the pool, unless it is protected."""
    if self.describe_user_pool(user_pool_id).extended_config.get("DeletionProtection") == "ACTIVE":
        raise InvalidParameterException(
            "The user pool cannot be deleted because deletion protection is activated. "
            "Deletion protection must be inactivated first."
        )
    original(self, user_pool_id)


@PATCHES.replace(
    "moto.cognitoidp.models:CognitoIdpBackend.sign_up",
    "lets people sign up where only administrators may create accounts",
)
def sign_up(self: Any, client_id: str, username: str, password: str, attributes: Any) -> Any:  # noqa: ARG001
    """Reject the call: pools here have `AllowAdminCreateUserOnly`."""
    raise NotAuthorizedError("SignUp is not permitted for this user pool")


@PATCHES.replace("moto.cognitoidp.responses:CognitoIdpResponse.confirm_sign_up", "confirms any account with any code")
def confirm_sign_up(self: Any) -> Any:  # noqa: ARG001
    """Reject the call: administrators create all accounts."""
    raise NotAuthorizedError("User cannot be confirmed. Current status is FORCE_CHANGE_PASSWORD")
