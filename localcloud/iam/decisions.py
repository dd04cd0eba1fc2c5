"""The decision about one permission check: an explicit Deny wins, then any Allow; otherwise the action is denied.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html describes this for identity
policies in one account. Permissions boundaries, session policies and the policies of an organization are not
evaluated; a session with one of the first two is denied everything.

Roles, policies and sessions are moto's. `signatures` has checked the signature. Neither this module nor moto checks
the end of a session.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moto.iam.models import get_account_id_from, iam_backends
from moto.sts.models import sts_backends
from moto.utilities.utils import get_partition

from localcloud.iam.policies import (
    Effect,
    IamPolicy,
    PermissionCheck,
    UnsupportedPolicyError,
    parse_policy,
)


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """The decision about a permission check.

    Attributes:
        rests_on: policy and Sid of each statement that decided it: all that deny, or else all that allow.
        why: for a denial, the end of AWS's error message.
    """

    check: PermissionCheck
    allowed: bool
    rests_on: tuple[tuple[str, str], ...] = ()
    why: str = ""


def decide(policies: Sequence[IamPolicy], check: PermissionCheck) -> PolicyDecision:
    """Return the decision of a role's policies; raise `UnsupportedPolicyError` if one cannot be evaluated."""
    effects: tuple[tuple[Effect, str], ...] = (
        ("Deny", "with an explicit deny in an identity-based policy"),
        ("Allow", ""),
    )
    for effect, why in effects:
        statements = ((policy.name, each) for policy in policies for each in policy.statements)
        rests_on = tuple(
            (name, each.sid) for name, each in statements if each.effect == effect and each.applies_to(check)
        )
        if rests_on:
            return PolicyDecision(check, effect == "Allow", rests_on, why)
    why = f"because no identity-based policy allows the {check.action} action"
    return PolicyDecision(check, allowed=False, why=why)


def decide_assuming(
    policies: Sequence[IamPolicy], trust: IamPolicy, arns: Sequence[str], check: PermissionCheck
) -> PolicyDecision:
    """Return the decision about assuming a role, which the role's trust policy must allow; raises as `decide` does.

    A trust policy that names the caller is enough. If it names the account, the caller's own policies decide
    (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).

    The policies are the caller's, `arns` those of its session and role.
    """
    own = decide(policies, check)
    _, partition, _, _, account, *_ = arns[0].split(":")
    named, delegated = set(), set()
    for statement in trust.statements:
        if statement.applies_to(check):
            principals = {arn for kind, arn in statement.principals if kind == "AWS"}
            if principals & {*arns, "*"}:
                named.add(statement.effect)
            if principals & {account, f"arn:{partition}:iam::{account}:root"}:
                delegated.add(statement.effect)
    if "Deny" in named | delegated:
        return PolicyDecision(check, allowed=False, why="with an explicit deny in the role trust policy")
    denied_by_own = bool(own.rests_on) and not own.allowed
    if "Allow" in named and not denied_by_own:
        return PolicyDecision(check, allowed=True, rests_on=((trust.name, "Principal"),))
    if "Allow" in named | delegated:
        return own
    why = f"because no role trust policy allows the {check.action} action"
    return PolicyDecision(check, allowed=False, why=why)


MAX_SESSIONS = 10_000
"""Largest number of cached sessions."""


@dataclass(frozen=True, slots=True)
class RoleSession:
    """A session of a caller that has assumed a role.

    Attributes:
        arn: of the session, such as ``arn:aws:sts::123456789012:assumed-role/web/i-0123``.
        limited: whether it has a session policy, which is not evaluated.
    """

    arn: str
    role_arn: str
    role: str
    account: str
    limited: bool = False

    def policies(self) -> tuple[IamPolicy, ...]:
        """Return the role's present policies; none if the role does not exist any more.

        Raises:
            UnsupportedPolicyError: a policy, or a limit of the policies, cannot be evaluated.
        """
        role = role_by_arn(self.account, self.role_arn)
        if role is None:
            return ()
        if self.limited or role.permissions_boundary_arn:
            raise UnsupportedPolicyError(
                f"the role {self.role!r} has a permissions boundary, or the session a policy of its own, "
                "and neither is evaluated here"
            )
        documents = list(role.policies.items())
        for managed in list(role.managed_policies.values()):
            default = next(each for each in managed.versions if each.version_id == managed.default_version_id)
            documents.append((managed.name, default.document))
        return tuple(parse_policy(name, document) for name, document in documents)


@functools.lru_cache(maxsize=MAX_SESSIONS)
def session_of(access_key: str, region: str) -> RoleSession | None:
    """Return the session of an access key, or None for a key without a role, which may do everything."""
    account, partition = get_account_id_from(access_key), get_partition(region)
    key = iam_backends[account][partition].access_keys.get(access_key)
    if key is None or key.role_arn is None:
        return None
    assumed = sts_backends[account][partition].get_assumed_role_from_access_key(access_key)
    name = key.role_arn.rpartition("/")[2]
    arn = assumed.arn if assumed else f"arn:{partition}:sts::{account}:assumed-role/{name}/unknown"
    return RoleSession(arn, key.role_arn, name, account, limited=bool(assumed and assumed.policy))


def role_by_arn(account: str, arn: str) -> Any | None:
    """Return moto's role of an ARN, or None."""
    backend = iam_backends[account][arn.split(":")[1]]
    roles: Sequence[Any] = list(backend.roles.values())
    return next((role for role in roles if role.arn == arn), None)
