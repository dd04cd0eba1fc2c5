"""moto's bucket policies, of which the denials of what comes without TLS deny nothing: loopback has none.

Stock moto does not look at a statement's condition, so such a denial would deny everything.
"""

import json
from collections.abc import Mapping
from typing import Any

from localcloud.patches import Patch

OF_TLS = {"aws:securetransport", "s3:tlsversion"}


def without_tls(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy without the statements that hold only for one kind of TLS, or for its absence."""
    statements = policy.get("Statement", [])
    listed = statements if isinstance(statements, list) else [statements]
    return {**policy, "Statement": [each for each in listed if not _is_about_tls(each)]}


def _is_about_tls(statement: Mapping[str, Any]) -> bool:
    keys = {key.lower() for pairs in statement.get("Condition", {}).values() for key in pairs}
    return bool(keys) and keys <= OF_TLS


def _get_permission(_original: Any) -> Any:
    def get_permission(self: Any, action: str, resource: str) -> Any:
        """Say what the bucket's policy says of an action."""
        from moto.iam.access_control import IAMPolicy, PermissionResult

        if self.policy is None:
            return PermissionResult.NEUTRAL
        policy = IAMPolicy(json.dumps(without_tls(json.loads(self.policy))))
        return policy.is_action_permitted(action, resource)

    return get_permission


PATCHES = (
    Patch(
        "moto.s3.models:FakeBucket.get_permission",
        ("self", "action", "resource"),
        _get_permission,
        "denies everything where a policy denies what comes without TLS",
    ),
)
