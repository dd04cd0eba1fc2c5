"""Changes and deletions of user pools, which only `up` and `down` make."""

from typing import Any

from moto.cognitoidp.exceptions import InvalidParameterException

from localcloud.patches import Patches

PATCHES = Patches()

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
