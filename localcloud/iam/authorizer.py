"""Denies requests if their signer lacks a permission, and counts all decisions with the statements behind them.

Roles, policies and sessions are moto's. A session with a policy of its own, or of a role with a permissions boundary,
is denied everything, since these are not evaluated. `signatures` has checked the signature; the end of a session is
not checked.
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from moto.iam.models import get_account_id_from, iam_backends
from moto.sts.models import sts_backends
from moto.utilities.utils import get_partition

from localcloud.dispatch import ErrorReason, error_response
from localcloud.ec2.fleet import Ec2Fleet
from localcloud.iam.actions import ASSUME_ROLE, permission_checks_of, put_object_checks
from localcloud.iam.calls import ApiCall, Credential, UnknownCallError, credential_of
from localcloud.iam.policies import (
    IamPolicy,
    PermissionCheck,
    PolicyDecision,
    UnsupportedPolicyError,
    decide,
    decide_assuming,
    parse_policy,
)
from localcloud.page_guard import WsgiApp
from localcloud.s3.posts import Form, RefusedError, Signer

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


MAX_ROWS = 20_000
"""Largest number of rows; further resources are counted under ``…``."""


@dataclass(frozen=True, slots=True)
class _Row:
    role: str
    action: str
    resource: str
    allowed: bool
    statements: tuple[tuple[str, str], ...]
    why: str


class DecisionRecord:
    """Counts decisions, so that tests can see which statements are used; threads may share an instance."""

    def __init__(self) -> None:
        self._counts: dict[_Row, int] = {}
        self._lock = threading.Lock()

    def record(self, role: str, decision: PolicyDecision) -> None:
        """Count a decision about an action of a role."""
        check = decision.check
        row = _Row(role, check.action, check.resource, decision.allowed, decision.rests_on, decision.why)
        with self._lock:
            if row not in self._counts and len(self._counts) >= MAX_ROWS:
                row = replace(row, resource="…")
            self._counts[row] = self._counts.get(row, 0) + 1

    def rows(self) -> list[dict[str, Any]]:
        """Return the decisions: `role`, `action`, `resource`, `allowed`, `statements`, `why` and `count`.

        `statements` has each statement that the decision rests on, with its `policy` and `sid`: all that deny, or
        else all that allow. `why` is AWS's reason of a denial.
        """
        with self._lock:
            counted = list(self._counts.items())
        return [
            {
                **asdict(row),
                "statements": [{"policy": policy, "sid": sid} for policy, sid in row.statements],
                "count": count,
            }
            for row, count in counted
        ]


decision_record = DecisionRecord()
"""The decisions of this process."""

_log = logging.getLogger(__name__)


class DeniedError(Exception):
    """Raised when a request is denied, with AWS's message."""


class Authorizer:
    """Checks requests against the policies of their role; `record` counts each decision."""

    def __init__(self, record: DecisionRecord, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._record, self._clock = record, clock

    def check(self, environ: dict[str, Any], credential: Credential) -> None:
        """Raise `DeniedError` if the signer lacks a permission, or if the request cannot be identified."""
        session = session_of(credential.access_key, credential.region)
        if session is None:
            return
        call = ApiCall(environ, credential.service, credential.region, get_account_id_from(credential.access_key))
        try:
            checks = permission_checks_of(call)
        except UnknownCallError as error:
            unknown = PermissionCheck(f"{credential.service}:?", "*", {})
            raise self._denied(session, PolicyDecision(unknown, allowed=False, why=f"because {error}")) from error
        self._check_all(session, credential.region, checks, str(environ.get("REMOTE_ADDR", "")))

    def check_actions(self, credential: Credential, checks: Iterable[PermissionCheck], address: str) -> None:
        """Check that the holder of a key has permissions, for a request from `address`; raises as `check` does."""
        session = session_of(credential.access_key, credential.region)
        if session is not None:
            self._check_all(session, credential.region, checks, address)

    def _check_all(self, session: RoleSession, region: str, checks: Iterable[PermissionCheck], address: str) -> None:
        now = self._clock()
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
        always = {
            "aws:currenttime": (now.isoformat(),),
            "aws:epochtime": (str(int(now.timestamp())),),
            "aws:principalaccount": (session.account,),
            "aws:principalarn": (session.role_arn,),
            "aws:principaltype": ("AssumedRole",),
            "aws:requestedregion": (region,),
            "aws:securetransport": ("false",),
            "aws:sourceip": (address or "127.0.0.1",),
        }
        for each in checks:
            check = PermissionCheck(each.action, each.resource, {**always, **each.context})
            try:
                policies = session.policies()
                role = role_by_arn(session.account, check.resource) if check.action == ASSUME_ROLE else None
                if role is None:
                    decision = decide(policies, check)
                else:
                    trust = parse_policy(f"the trust policy of {role.name}", role.assume_role_policy_document)
                    decision = decide_assuming(policies, trust, (session.arn, session.role_arn), check)
            except UnsupportedPolicyError as error:
                decision = PolicyDecision(check, allowed=False, why=f"because {error}")
            if not decision.allowed:
                raise self._denied(session, decision)
            self._record.record(session.role, decision)

    def _denied(self, session: RoleSession, decision: PolicyDecision) -> DeniedError:
        self._record.record(session.role, decision)
        check = decision.check
        on = "" if check.resource == "*" else f" on resource: {check.resource}"
        message = f"User: {session.arn} is not authorized to perform: {check.action}{on} {decision.why}"
        _log.warning("denied: %s", message)
        return DeniedError(message)


authorizer = Authorizer(decision_record)
"""The authorizer of this process."""


class AuthorizedCalls:
    """WSGI middleware that denies requests without permission, if the switch ``enforce_iam`` is on.

    A request without a signature passes: `signatures` lets only those through that AWS accepts without one.
    """

    def __init__(self, aws: WsgiApp, authorizer: Authorizer, fleet: Ec2Fleet) -> None:
        self._aws, self._authorizer, self._fleet = aws, authorizer, fleet

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        credential = credential_of(environ) if self._fleet.switches.enforce_iam else None
        if credential is not None:
            try:
                self._authorizer.check(environ, credential)
            except DeniedError as error:
                refused = error_response(environ, credential.service, ErrorReason.DENIED, str(error))
                start_response(refused.status, [*refused.headers, ("Content-Length", str(len(refused.body)))])
                return (refused.body,)
        return self._aws(environ, start_response)


def form_check(authorizer: Authorizer, fleet: Ec2Fleet) -> Callable[[Form, Signer], None]:
    """Return the check of forms for `PostObjects`: it raises `RefusedError` if the signer may not put the object."""

    def check(form: Form, signer: Signer) -> None:
        if not fleet.switches.enforce_iam:
            return
        credential = Credential(signer.access_key, signer.region, "s3")
        checks = put_object_checks(form.bucket, form.fields["key"], signer.region, tagged="tagging" in form.fields)
        try:
            authorizer.check_actions(credential, checks, "")
        except DeniedError as error:
            raise RefusedError(403, "AccessDenied", str(error)) from error

    return check
