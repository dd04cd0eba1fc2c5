"""Finds what a call is about: the pool behind a client's id, and the account behind a name."""

from typing import Any

from localcloud.patches import Patch


def pool_of(client_id: str | None) -> tuple[Any, Any, Any]:
    """Return moto's backend, pool and client of a client's id; public calls name no region.

    Raises:
        ResourceNotFoundError: there is no such client.
    """
    from moto.cognitoidp.exceptions import ResourceNotFoundError
    from moto.cognitoidp.models import cognitoidp_backends

    for regions in list(cognitoidp_backends.values()):
        for backend in list(regions.values()):
            for pool in list(backend.user_pools.values()):
                if client_id in pool.clients:
                    return backend, pool, pool.clients[client_id]
    raise ResourceNotFoundError(f"User pool client {client_id} does not exist.")


def hides_who_exists(client: Any) -> bool:
    """Return True if a client's answers must not tell whether there is an account."""
    return bool(client.extended_config.get("PreventUserExistenceErrors") == "ENABLED")


def address_of(user: Any | None, name: str) -> str:
    """Return the address of an account, or, where there is none, what stood in its place."""
    return str(user.attribute_lookup.get("email", name) if user else name).lower()


def _get_user(_original: Any) -> Any:
    def get_user(self: Any, username: str) -> Any:
        """Return the account of this name, id or address, None when there is none."""
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


PATCHES = (
    Patch(
        "moto.cognitoidp.models:CognitoIdpUserPool._get_user",
        ("self", "username"),
        _get_user,
        "tells addresses apart by capitals, and reads every attribute of every account each time",
    ),
)
