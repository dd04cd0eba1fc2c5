"""The API of shares: who may read a job besides its owner."""

from datetime import datetime
from typing import Self

from flask import Response, url_for
from flask.typing import ResponseReturnValue
from pydantic import Field
from werkzeug.exceptions import UnprocessableEntity

from core.ids import new_id
from core.jobs.models import Share
from core.jobs.shares import (
    DEFAULT_DAYS,
    MAX_DAYS,
    ShareStore,
    TooManySharesError,
    digest_of,
    new_token,
)
from services.emails import MAX_EMAIL_CHARACTERS, normalise_email
from web_tier.api.schemas import ROOT
from web_tier.auth.audit import audit_details
from web_tier.auth.context import current_auth
from web_tier.auth.identity import current_identity
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.features.sharing.access import shares_in_force
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parameters import known_id
from web_tier.http.parsing import json_response, parse_body
from web_tier.http.routes import Routes

# Not with a personal token: one that may only send images could make a link, and read by it.
api = Routes("sharing_api", right=Right.ACCOUNT, needs_sign_in=True)

SECONDS_PER_DAY = 86_400


class CreateShare(ApiBody):
    """Who may read the job, and for how long."""

    email: str | None = Field(
        default=None,
        max_length=MAX_EMAIL_CHARACTERS,
        description="Address of the account that may read it. Without it, the answer has a link for everybody.",
    )
    days: int = Field(default=DEFAULT_DAYS, ge=1, le=MAX_DAYS, strict=True, description="Days until it ends.")


class ShareBody(ApiBody):
    """The right of others to read a job; a link has no `email`."""

    share_id: str
    email: str | None
    expires_at: datetime

    @classmethod
    def from_share(cls, share: Share, **more: str | None) -> Self:
        """Return the body of a share."""
        return cls.copied_from(share, email=share.email or None, expires_at=share.until_at, **more)


class NewShareBody(ShareBody):
    """A share that was just made."""

    path: str | None = Field(
        description="Of a link: append it to the address of this server. It is shown only once.", repr=False
    )


class SharesBody(ApiBody):
    """The shares of a job that are in force."""

    shares: tuple[ShareBody, ...]


def make_share(job_id: str, wanted: CreateShare) -> NewShareBody:
    """Share a job of the current user.

    Raises:
        UnprocessableEntity: the address cannot be one, or is the user's own, or the job has too many shares.
    """
    who, auth = current_identity(), current_auth()
    email = "" if wanted.email is None else normalise_email(wanted.email)
    if email is None or (email and email == normalise_email(who.email)):
        raise UnprocessableEntity("email: write the e-mail address of the account that may read the job, not yours")
    token = "" if email else new_token()
    until = int(auth.sessions.clock.epoch_seconds()) + wanted.days * SECONDS_PER_DAY
    made_after = auth.revocations.last_of(who.owner).revocation_id
    share = Share(new_id(), until, who.signed_in, made_after, digest_of(token) if token else "", email)
    try:
        user_jobs().job(job_id)
        ShareStore(current_backend().store.table).add(job_id, share, auth.sessions.clock.epoch_seconds())
    except TooManySharesError as error:
        raise UnprocessableEntity(str(error)) from error
    audit_details(share_id=share.share_id, shared_with=email or "a link", days=wanted.days)
    path = f"{url_for('sharing.link_page')}#{job_id}.{token}" if token else None
    return NewShareBody.from_share(share, path=path)


@api.get("/jobs/<job_id>/shares")
@operation(ApiResponse(200, "Those that are in force.", SharesBody))
def list_shares(job_id: str) -> Response:
    """List the shares of a job.

    With a token of the provider only, not with a personal one. Where there is no sign-in there are no shares: 404.
    """
    job = user_jobs().job(known_id("job", job_id))
    shares = shares_in_force(current_auth(), job.owner, job.shares)
    return json_response(SharesBody(shares=tuple(map(ShareBody.from_share, shares))))


@api.post("/jobs/<job_id>/shares", audit="job shared")
@operation(ApiResponse(201, "The share; a link is shown only once.", NewShareBody), body=CreateShare)
def share_job(job_id: str) -> ResponseReturnValue:
    """Share a job for reading.

    With `email` the user with that verified address reads it at its ordinary address. Without it, everybody who has
    the link does. A share permits no changes. It ends after its days, when you end it, and with the sign-in that it
    was made from. With a token of the provider only. Up to 20 at a time.
    """
    made = make_share(known_id("job", job_id), parse_body(CreateShare, '{"days": 7}'))
    return json_response(made, 201), {"Location": f"{ROOT}/jobs/{job_id}/shares/{made.share_id}"}


@api.delete("/jobs/<job_id>/shares/<share_id>", audit="share ended")
@operation(ApiResponse(204, "It is over, also for pages that are open."))
def end_share(job_id: str, share_id: str) -> ResponseReturnValue:
    """End a share of a job."""
    user_jobs().job(known_id("job", job_id))
    share = ShareStore(current_backend().store.table).end(job_id, share_id)
    audit_details(shared_with=share.email or "a link")
    return "", 204
