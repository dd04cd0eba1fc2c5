"""Decides whether the signer of a request may do all that it asks for, and says no in AWS's words."""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from moto.iam.models import get_account_id_from

from localcloud.iam.calls import Call, Credential, UnknownCallError
from localcloud.iam.conditions import Context, UnsupportedPolicyError
from localcloud.iam.decisions import Decision, decide, decide_assuming
from localcloud.iam.documents import Asked, parse_policy
from localcloud.iam.principals import Session, Sessions, role_by_arn
from localcloud.iam.questions import questions_of
from localcloud.iam.questions.sts import ASSUME_ROLE
from localcloud.iam.record import DecisionRecord

_log = logging.getLogger(__name__)


class DeniedError(Exception):
    """Raised when a request is denied; the message is AWS's."""


class Authorizer:
    """Asks the policies of the role behind a request.

    Args:
        record: where each decision is counted.
        clock: the time of day, which conditions may ask about.
    """

    def __init__(self, record: DecisionRecord, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._record, self._clock, self._sessions = record, clock, Sessions()

    def check(self, environ: dict[str, Any], credential: Credential) -> None:
        """Return if the signer of a request may do what it asks for.

        Raises:
            DeniedError: they may not, or it cannot be told what that is.
        """
        session = self._sessions.of(credential.access_key, credential.region)
        if session is None:
            return
        call = Call(environ, credential.service, credential.region, get_account_id_from(credential.access_key))
        try:
            asked = questions_of(call)
        except UnknownCallError as error:
            unknown = Asked(f"{credential.service}:?", "*", {})
            raise self._denied(session, Decision(unknown, allowed=False, why=f"because {error}")) from error
        self._check_all(session, credential.region, asked, str(environ.get("REMOTE_ADDR", "")))

    def check_asked(self, credential: Credential, asked: Iterable[Asked], address: str) -> None:
        """Return when the holder of a key may do all that was asked at `address`; raises as `check` does."""
        session = self._sessions.of(credential.access_key, credential.region)
        if session is not None:
            self._check_all(session, credential.region, asked, address)

    def _check_all(self, session: Session, region: str, asked: Iterable[Asked], address: str) -> None:
        always = self._context(session, region, address)
        for each in asked:
            question = Asked(each.action, each.resource, {**always, **each.context})
            decision = _decided(session, question)
            if not decision.allowed:
                raise self._denied(session, decision)
            self._record.note(session.role, decision)

    def _context(self, session: Session, region: str, address: str) -> Context:
        """Return what conditions may ask about every request.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
        """
        now = self._clock()
        return {
            "aws:currenttime": (now.isoformat(),),
            "aws:epochtime": (str(int(now.timestamp())),),
            "aws:principalaccount": (session.account,),
            "aws:principalarn": (session.role_arn,),
            "aws:principaltype": ("AssumedRole",),
            "aws:requestedregion": (region,),
            "aws:securetransport": ("false",),
            "aws:sourceip": (address or "127.0.0.1",),
        }

    def _denied(self, session: Session, decision: Decision) -> DeniedError:
        self._record.note(session.role, decision)
        asked = decision.asked
        on = "" if asked.resource == "*" else f" on resource: {asked.resource}"
        said = f"User: {session.arn} is not authorized to perform: {asked.action}{on} {decision.why}"
        _log.warning("denied: %s", said)
        return DeniedError(said)


def _decided(session: Session, asked: Asked) -> Decision:
    try:
        policies = session.policies()
        role = role_by_arn(session.account, asked.resource) if asked.action == ASSUME_ROLE else None
        if role is None:
            return decide(policies, asked)
        trust = parse_policy(f"the trust policy of {role.name}", role.assume_role_policy_document)
        return decide_assuming(policies, trust, (session.arn, session.role_arn), asked)
    except UnsupportedPolicyError as error:
        return Decision(asked, allowed=False, why=f"because {error}")
