"""Bucket policies, which only stacks and `bake` set."""

import json
from typing import Any

from localcloud.patches import Patches

PATCHES = Patches()

TLS_KEYS = {"aws:securetransport", "s3:tlsversion"}
"""Condition keys about TLS."""


@PATCHES.replace(
    "moto.s3.models:FakeBucket.get_permission", "denies every request if a policy denies requests without TLS"
)
def get_permission(self: Any, action: str, resource: str) -> Any:
    """Return the permission that the bucket's policy gives for an action.

    Statements that have conditions only about TLS are left out. Loopback has no TLS, and stock moto ignores the
    conditions of a statement, so a denial of requests without TLS would deny every request.
    """
    from moto.iam.access_control import IAMPolicy, PermissionResult

    if self.policy is None:
        return PermissionResult.NEUTRAL
    policy = json.loads(self.policy)
    statements = policy.get("Statement", [])
    policy["Statement"] = []
    for statement in statements if isinstance(statements, list) else [statements]:
        keys = {key.lower() for pairs in statement.get("Condition", {}).values() for key in pairs}
        if not keys or not keys <= TLS_KEYS:
            policy["Statement"].append(statement)
    return IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource)


# No percent sign and no empty segment: every layer that decodes or routes such a path reads it alike.
