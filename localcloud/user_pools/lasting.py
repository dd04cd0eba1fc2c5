"""What of a user pool lasts: by what names accounts are known, and the pool itself while it is protected."""

from typing import Any

from localcloud.patches import Patch

_UNCHANGEABLE = ("AliasAttributes", "UsernameAttributes", "UsernameConfiguration")
_REFUSAL = (
    "The user pool cannot be deleted because deletion protection is activated. "
    "Deletion protection must be inactivated first."
)


def _update_user_pool(original: Any) -> Any:
    def update_user_pool(self: Any, user_pool_id: str, extended_config: dict[str, Any]) -> None:
        """Set the pool up anew, but for what no call can change."""
        had = self.describe_user_pool(user_pool_id).extended_config
        kept = {name: had[name] for name in _UNCHANGEABLE if name in had}
        original(self, user_pool_id, {**extended_config, **kept})

    return update_user_pool


def _delete_user_pool(original: Any) -> Any:
    def delete_user_pool(self: Any, user_pool_id: str) -> None:
        """Delete the pool, unless it is protected."""
        from moto.cognitoidp.exceptions import InvalidParameterException

        if self.describe_user_pool(user_pool_id).extended_config.get("DeletionProtection") == "ACTIVE":
            raise InvalidParameterException(_REFUSAL)
        original(self, user_pool_id)

    return delete_user_pool


PATCHES = (
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
)
