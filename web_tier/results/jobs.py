"""The list of jobs, newest first, in pages; searched by name."""

from dataclasses import dataclass
from typing import Protocol

from core.jobs.models import Job

PAGE = 500
"""Jobs read at a time when they are searched."""

MAX_EXAMINED = 5_000
"""Jobs that one page of a search looks at."""


class Jobs(Protocol):
    """Where jobs are listed; `UserJobs` is one."""

    def jobs(self, limit: int, before: str | None = None) -> list[Job]:
        """Return up to `limit` jobs, newest first, those older than the job id `before`."""
        ...


@dataclass(frozen=True, slots=True)
class JobsFound:
    """Some jobs, newest first; `next_before` is the cursor of the next page, if any."""

    jobs: tuple[Job, ...]
    next_before: str | None


def jobs_page(store: Jobs, *, before: str | None = None, limit: int, name: str | None = None) -> JobsFound:
    """Return up to `limit` jobs older than the job id `before`, those with `name` (any case) in their name if given.

    A search may return fewer, even none, and a cursor all the same: it looks at `MAX_EXAMINED` jobs at most.
    """
    if name is None:
        jobs = store.jobs(limit + 1, before)
        return JobsFound(tuple(jobs[:limit]), jobs[limit - 1].job_id if len(jobs) > limit else None)
    found: list[Job] = []
    for _ in range(MAX_EXAMINED // PAGE):
        page = store.jobs(PAGE, before)
        found += [job for job in page if name.casefold() in job.name.casefold()]
        before = page[-1].job_id if len(page) == PAGE else None
        if len(found) > limit:
            return JobsFound(tuple(found[:limit]), found[limit - 1].job_id)
        if before is None:
            break
    return JobsFound(tuple(found), before)
