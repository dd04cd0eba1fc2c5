"""Who signed a request: the role with the session of its access key, or a caller without policies.

The roles, their policies and their sessions are moto's. `signatures` has checked the signature. The end of a session
is not checked, here or by moto.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moto.iam.models import get_account_id_from, iam_backends
from moto.sts.models import sts_backends
from moto.utilities.utils import get_partition

from localcloud.iam.conditions import UnsupportedPolicyError
from localcloud.iam.documents import Policy, parse_policy

SESSIONS_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """A caller who has assumed a role.

    Attributes:
        arn: of the session, such as ``arn:aws:sts::123456789012:assumed-role/web/i-0123``.
        role_arn: of the role.
        role: its name.
        account: that of the role.
        limited: whether it was made with a session policy, which is not evaluated here.
    """

    arn: str
    role_arn: str
    role: str
    account: str
    limited: bool = False

    def policies(self) -> tuple[Policy, ...]:
        """Return the role's policies as they are now; none when the role is gone.

        Raises:
            UnsupportedPolicyError: one of them cannot be evaluated, or something limits them that is not.
        """
        role = role_by_arn(self.account, self.role_arn)
        if role is None:
            return ()
        if self.limited or role.permissions_boundary_arn:
            raise UnsupportedPolicyError(
                f"the role {self.role!r} has a permissions boundary, or the session a policy of its own, "
                "and neither is evaluated here"
            )
        inline = [parse_policy(name, document) for name, document in list(role.policies.items())]
        return (*inline, *(_default_version(managed) for managed in list(role.managed_policies.values())))


def _default_version(managed: Any) -> Policy:
    document = next(each.document for each in managed.versions if each.version_id == managed.default_version_id)
    return parse_policy(managed.name, document)


class Sessions:
    """The sessions of this cloud by access key; threads may share it."""

    def __init__(self) -> None:
        self._known: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, access_key: str, region: str) -> Session | None:
        """Return the owner of the key; None for one that no role owns, which may do everything."""
        with self._lock:
            known = self._known.get(access_key)
        if known is not None:
            return known
        found = _assumed(access_key, region)
        if found is not None:
            with self._lock:
                if len(self._known) >= SESSIONS_REMEMBERED:
                    self._known.clear()
                self._known[access_key] = found
        return found


def _assumed(access_key: str, region: str) -> Session | None:
    account, partition = get_account_id_from(access_key), get_partition(region)
    key = iam_backends[account][partition].access_keys.get(access_key)
    if key is None or key.role_arn is None:
        return None
    assumed = sts_backends[account][partition].get_assumed_role_from_access_key(access_key)
    name = key.role_arn.rpartition("/")[2]
    arn = assumed.arn if assumed else f"arn:{partition}:sts::{account}:assumed-role/{name}/unknown"
    return Session(arn, key.role_arn, name, account, limited=bool(assumed and assumed.policy))


def role_by_arn(account: str, arn: str) -> Any | None:
    """Return moto's role of this ARN, None when there is none."""
    backend = iam_backends[account][arn.split(":")[1]]
    roles: Sequence[Any] = list(backend.roles.values())
    return next((role for role in roles if role.arn == arn), None)
