"""Shares of jobs: the owner of a job lets others read it, by a link or by their address, for some days.

The shares of a job are one attribute of its item, which each read of a job reads consistently. So a share that has
ended is over at once for all processes, and costs no call. `SHARED#` lists the jobs of an address; an item there
gives no right, and the table deletes it when the share expires.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from core.ids import FIRST_ID
from core.jobs.items import JOBS, SHARES, shared_partition, shares_as_text, shares_in
from core.jobs.lifecycle import no_job
from core.jobs.models import Share
from services.errors import FleetsightError, NotFoundError
from services.table import EXPIRES_AT, LAST, Table, TableBusyError

DEFAULT_DAYS: Final = 7
MAX_DAYS: Final = 30

MAX_SHARES: Final = 20
"""Maximum shares of a job that have not expired."""

ATTEMPTS: Final = 8
"""Attempts to change the shares of a job that others change at the same time."""


class TooManySharesError(FleetsightError):
    """Raised when a job has `MAX_SHARES` shares; the message is for the user."""


def new_token() -> str:
    """Return an unguessable token of a link, of 256 random bits."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """Return what is stored of a link's token; a fast hash is enough for so many random bits."""
    return sha256(token.encode(errors="replace")).hexdigest()


@dataclass(frozen=True)
class ShareStore:
    """The shares of jobs in the job table. botocore's errors and TableBusyError pass through."""

    table: Table

    def add(self, job_id: str, share: Share, now: float) -> None:
        """Add a share to a job, in place of an earlier one with the same address; remove those that have expired.

        Raises:
            NotFoundError: there is no such job.
        """

        def added(shares: Sequence[Share]) -> list[Share]:
            others = [each for each in shares if each.until > now and each.share_id != share.share_id]
            others = [each for each in others if not share.email or each.email != share.email]
            if len(others) >= MAX_SHARES:
                raise TooManySharesError(f"the job has {MAX_SHARES} shares, and no more are allowed: end one first")
            return [*others, share]

        place = shared_partition(share.email)
        if share.email:  # first, so that a job that is shared is in the list of its reader
            self.table.put_all([{"pk": place, "sk": job_id, EXPIRES_AT: share.until}])
        try:
            self._change(job_id, added)
        finally:
            if share.email and self.table.get(JOBS, job_id) is None:  # it was deleted meanwhile
                self.table.delete_all([(place, job_id)])

    def end(self, job_id: str, share_id: str) -> Share:
        """End a share of a job at once.

        Raises:
            NotFoundError: there is no such job or share.
            TableBusyError: others change the shares at the same time; ending it again is safe.
        """
        ended = list[Share]()

        def remaining(shares: Sequence[Share]) -> list[Share]:
            ended[:] = [each for each in shares if each.share_id == share_id] or ended
            if not ended:
                raise NotFoundError(f"there is no share {share_id[:40]!r}")
            return [each for each in shares if each.share_id != share_id]

        self._change(job_id, remaining)
        self.table.delete_all([(shared_partition(share.email), job_id) for share in ended if share.email])
        return ended[0]

    def shared_with(self, email: str, limit: int) -> list[str]:
        """Return the ids of up to `limit` jobs that may be shared with an address, newest first."""
        items = self.table.query(shared_partition(email), FIRST_ID, LAST, limit=limit, newest_first=True)
        return [str(item["sk"]) for item in items]

    def _change(self, job_id: str, change: Callable[[Sequence[Share]], Sequence[Share]]) -> None:
        """Replace the shares of a job by what `change` returns for them; a lost reply makes it change them again."""
        for _ in range(ATTEMPTS):
            item = self.table.get(JOBS, job_id)
            if item is None:
                raise no_job(job_id)
            before, after = str(item.get(SHARES, "")), shares_as_text(change(shares_in(item))) or "[]"
            # The attribute is never removed, so only a job without shares has none.
            unchanged = f"attribute_exists( #pk ) AND ( #{SHARES} = :before OR attribute_not_exists( #{SHARES} ) )"
            if self.table.set(JOBS, job_id, {SHARES: after}, unchanged, {"before": before}):
                return
        raise TableBusyError(f"the shares of the job {job_id} are being changed; try again")
