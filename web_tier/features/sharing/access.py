"""Who reads jobs of others: users of a verified address, and holders of links."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flask import request

from core.credentials import Revocation
from core.jobs.models import Job, Share
from core.jobs.shares import ShareStore, digest_of
from core.jobs.store import JobStore
from services.emails import normalise_email
from web_tier.auth.context import LINK_COOKIE, AuthServices, ShareOf, current_auth, signs_in
from web_tier.auth.identity import VIEWER, current_identity
from web_tier.auth.job_access import UserJobs
from web_tier.http.backend import current_backend

MAX_SHARED = 50
"""Jobs of others in the list of jobs, the newest ones."""


@dataclass(frozen=True)
class Viewer:
    """Who reads jobs of others: the user of a verified address, or the holder of a link, or both.

    Attributes:
        owner: id of the user.
        email: address of the user, or empty.
        token: of the link, or empty.
    """

    auth: AuthServices
    owner: str
    email: str | None
    token: str = field(default="", repr=False)

    def share_of(self, job: Job) -> Share | None:
        """Return the share by which the viewer may read a job, or None."""
        shares = [share for share in job.shares if self._is_given(share)]
        return next(iter(shares_in_force(self.auth, job.owner, shares)), None)

    def _is_given(self, share: Share) -> bool:
        if share.digest:
            return hmac.compare_digest(share.digest, digest_of(self.token))
        return share.email == self.email and self._is_verified

    @cached_property
    def _is_verified(self) -> bool:
        profile = self.auth.profiles.find(self.owner)
        return profile is not None and profile.is_verified and normalise_email(profile.email) == self.email


def shares_in_force(auth: AuthServices, owner: str, shares: Sequence[Share]) -> list[Share]:
    """Return those shares of a job of `owner` that have not expired, nor ended with what they were made from."""
    now, revoked = auth.sessions.clock.epoch_seconds(), auth.revocations.last_of(owner) if shares else Revocation()
    return [each for each in shares if each.until > now and not revoked.covers(each.signed_in, each.made_after)]


def share_of_sender() -> ShareOf | None:
    """Return how the sender of the current request reads jobs of others; None without sign-in."""
    viewer = _viewer(request.cookies.get(LINK_COOKIE, ""))
    return viewer.share_of if viewer else None


def job_of_link(job_id: str, token: str) -> Job:
    """Return the job that a link opens, for any sender of the current request.

    Raises:
        NotFoundError: there is no such job, or the token opens it no longer, or never did.
    """
    viewer = Viewer(current_auth(), VIEWER.owner, None, token)
    return UserJobs(current_backend().store.table, VIEWER.owner, viewer.share_of).job(job_id)


def jobs_shared_with_user() -> list[tuple[Job, Share]]:
    """Return jobs of others that are shared with the address of the current user, newest first."""
    viewer, table = _viewer(""), current_backend().store.table
    if viewer is None or not viewer.email:
        return []
    job_ids = ShareStore(table).shared_with(viewer.email, MAX_SHARED)
    jobs = JobStore(table).jobs_of(job_ids)
    found = ((job, viewer.share_of(job)) for job_id in job_ids if (job := jobs.get(job_id)))
    return [(job, share) for job, share in found if share]


def _viewer(token: str) -> Viewer | None:
    identity = current_identity()
    return Viewer(current_auth(), identity.owner, normalise_email(identity.email), token) if signs_in() else None
