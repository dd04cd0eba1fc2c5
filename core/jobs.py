"""The job store: jobs, their accepted images and the results, in one DynamoDB table.

| pk               | sk                 | holds                                                     | written by |
| ---------------- | ------------------ | --------------------------------------------------------- | ---------- |
| `JOBS`           | job id             | name, created_at, keep, owner: the list of all jobs       | web        |
| `OWNED#` owner   | job id             | the same, of the jobs of one user                         | web        |
| `OPEN`           | job id             | touched_at: there may be images without a result          | web        |
| `COUNTS#` job id | `COUNTED`          | done, cached, failed, images, first, last result, runs,   | controller |
|                  |                    | system_retried, resends                                   |            |
| `COUNTS#` job id | `MERGED`           | key, edition, at: where all results stand as one file     | controller |
| `COUNTS#` job id | `RETRIED`          | at: when failed images were last requested again          | web        |
| `COUNTS#` job id | `SAID#` writer id  | images this web process has accepted, and answered itself | web        |
| `JOB#` job id    | `IMAGE#` image id  | filename, key, bytes, accepted_at, cached, attempt        | web        |
| `JOB#` job id    | `RESULT#` image id | status, attempt, response; of a cached one written by web | collector  |
| `JOB#` job id    | `RESENT#` image id | how often its request was sent again, since a message was | controller |
|                  |                    | presumed lost: times, attempt, first, last                |            |
| `JOB#` job id    | `SLICE#` key       | what a repeatable request has put: `core/idempotency.py`   | web        |
| `JOB#` job id    | `UPLOAD#` id       | its images that are counted: `core/idempotency.py`  | web        |
| `DELETED`        | job id             | owner: what is left of this job is to be removed;         | both       |
|                  |                    | with `expiring`, not before that is taken away;           |            |
|                  |                    | `marked_again`: something was written after its removal   |            |
| `DEADLETTERS`    | ids, attempt       | images that were given up: `core/dead_letters.py`     | both       |
| `FLEET`          | all                | the fleet's: `core/fleet_store.py`                        | both       |

Where there is no sign-in a job has no owner, and no item of `OWNED#`. A job that has one is written to `JOBS` first,
so that each job in the list of a user exists; a deletion takes both away, by its mark again if need be.

The result of an image that was answered from the cache (`core/cache.py`) is written before the image's record, so
that a reader of such a record finds its result.

Every write is an absolute figure or an idempotent put, so any of them may be repeated. `done` beats `failed`, and
the failure of a later attempt beats that of an earlier one.

Attempts of an image are numbered: a retry raises `attempt` in the image's record, and request, prediction and
response carry the number. An image is being retried while its failed result has a lower number than its record.

How many images a job has is the greater of two lower bounds: the sum of what the web processes say, and what the
controller last counted; so a process that dies between two writes makes no figure wrong for long. The same holds for
how many were answered from the cache.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.ids import ImageRef, first_id_of, new_id
from core.job_items import (
    COUNTED,
    DEAD_LETTERS,
    DELETED,
    EXPIRING,
    FIRST_ID,
    IMAGE,
    JOBS,
    MARKED_AGAIN,
    MERGED,
    OF_CACHED,
    OPEN,
    RESENT,
    RESULT,
    RETRIED,
    SAID,
    accepted_attributes,
    accepted_count_of,
    counts_of,
    counts_partition,
    deleted_item,
    deleted_of,
    image_item,
    image_of,
    job_item,
    job_of,
    jobs_partition,
    keys_of_job,
    merged_of,
    moment_in,
    partition,
    resend_item,
    resend_of,
    result_item,
    result_summary_of,
    runs_as_text,
    times_as_text,
)
from core.job_records import (
    AcceptedCount,
    Counts,
    DeletedJob,
    ImageRecord,
    Job,
    JobStatus,
    MergedFile,
    OpenJob,
    Resend,
    ResultSummary,
    with_accepted,
)
from core.messages import Response, Status
from services.errors import NotFoundError
from services.table import LAST, Item, Table


@dataclass(frozen=True)
class JobStore:
    """Reads and writes the job table."""

    table: Table

    # Jobs

    def create(self, job: Job) -> None:
        """Record a new job."""
        self.create_all([job])

    def create_all(self, jobs: Sequence[Job]) -> None:
        """Record new jobs.

        Raises:
            TableBusyError: when some could not be recorded; recording all again is safe.
        """
        self.table.put_all([job_item(job) for job in jobs])
        self.table.put_all([job_item(job, jobs_partition(job.owner)) for job in jobs if job.owner])

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: when there is none.
        """
        item = self.table.get(JOBS, job_id)
        if item is None:
            raise no_job(job_id)
        return job_of(item)

    def existing(self, job_ids: Collection[str], owner: str = "") -> set[str]:
        """Return those of `job_ids`, each once, of which there is a job: of that user if one is named.

        Raises:
            TableBusyError: when some could not be read.
        """
        return {
            str(item["sk"]) for item in self.table.get_all([(jobs_partition(owner), job_id) for job_id in job_ids])
        }

    def jobs_of(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Return those of `job_ids`, each once, of which there is a job, by its id.

        Raises:
            TableBusyError: when some could not be read.
        """
        return {str(item["sk"]): job_of(item) for item in self.table.get_all([(JOBS, each) for each in job_ids])}

    def jobs(self, limit: int, before: str | None = None, owner: str = "") -> list[Job]:
        """Return up to `limit` jobs of `owner`, newest first, those older than the job id `before`."""
        found: list[Job] = []
        while len(found) < limit:
            page = self._jobs_in(jobs_partition(owner), limit, before)
            # The list of all jobs holds those of users, too, where there was a sign-in once.
            found += [job for job in page if job.owner == owner]
            if len(page) < limit:
                break
            before = page[-1].job_id
        return found[:limit]

    def _jobs_in(self, held: str, limit: int, before: str | None) -> list[Job]:
        items = self.table.query(held, FIRST_ID, before or LAST, limit=limit + 1, newest_first=True)
        return [job_of(item) for item in items if item["sk"] != before][:limit]

    def newest_job(self) -> Job | None:
        """Return the job that was created last, of all users, or None if there is none."""
        return next(iter(self._jobs_in(JOBS, 1, None)), None)

    def jobs_until(self, moment: datetime) -> Iterator[Job]:
        """Yield the jobs that were created before `moment`, oldest first."""
        for item in self.table.query(JOBS, FIRST_ID, first_id_of(moment)):
            yield job_of(item)

    def status(self, job_id: str) -> JobStatus:
        """Return a job and its counts; costs the same however many images it has.

        Raises:
            NotFoundError: when there is no such job.
        """
        return self.status_of(self.job(job_id))

    def status_of(self, job: Job) -> JobStatus:
        """Return the counts of a job that has just been read."""
        found = self.table.query(counts_partition(job.job_id), COUNTED, SAID + LAST)
        items = {str(item["sk"]): item for item in found}
        counted, merged, retried = (items.pop(kind, None) for kind in (COUNTED, MERGED, RETRIED))
        counts = with_accepted(
            counts_of(counted) if counted else Counts(), [accepted_count_of(item) for item in items.values()]
        )
        return JobStatus(
            job,
            max(counts.images, counts.done + counts.failed),
            counts,
            retried_at=moment_in(retried, "at") if retried else None,
            merged=merged_of(merged) if merged else None,
        )

    # Deletion

    def delete(self, job: Job) -> None:
        """Take a job away: from here on it does not exist, and what is left of it waits to be removed.

        Raises:
            TableBusyError: when it could not be taken away for now; deleting again is safe.
        """
        # The mark first: a process that dies in between leaves a job that the controller takes away.
        self.table.put_all([deleted_item(job)])
        self.table.delete_all(keys_of_job(job.job_id, job.owner))

    def expire(self, job: Job, is_due: Callable[[], bool]) -> bool:
        """Delete a job unless it is open or being deleted; return True if it was deleted.

        The web tier marks a job as open and then looks whether it is marked as expiring; this does the same in the
        other order. So at least one of the two sees the other: the images are refused, or the job stays.

        What was known of the job before the mark may be too little: its last result may have come since, or another
        controller may have taken over. Once it is marked and not open, it is used no more, so `is_due` is asked then.
        If a controller is frozen later, its successor takes its mark away, and each mark has a value of its own.

        Args:
            job: to delete.
            is_due: returns True if the job may expire, as its items now are, and this process may still act.

        Raises:
            TableBusyError: when it could not be deleted for now; expiring it again is safe.
        """
        if self.is_open(job.job_id):
            return False
        mark, ours = deleted_item(job), {"ours": new_id()}
        if not self.table.put_if({**mark, EXPIRING: ours["ours"]}, "attribute_not_exists( #pk )"):
            return False
        is_marked = f"#{EXPIRING} = :ours"
        if self.is_open(job.job_id) or not is_due():
            self.table.delete_if(DELETED, job.job_id, is_marked, ours)
            return False
        if not self.table.put_if(mark, is_marked, ours):
            return False
        self.table.delete_all(keys_of_job(job.job_id, job.owner))
        return True

    def take_back_expiries(self) -> None:
        """Take back the marks of expiries that a controller began and did not finish."""
        for item in list(self.table.query(DELETED, FIRST_ID, LAST)):
            if EXPIRING in item:
                # Only this mark: since it was read, another controller may have deleted the job.
                self.table.delete_if(DELETED, str(item["sk"]), f"#{EXPIRING} = :read", {"read": item[EXPIRING]})

    def deleted_jobs(self) -> list[DeletedJob]:
        """Return the deleted jobs of which something may be left."""
        return [deleted_of(item) for item in self.table.query(DELETED, FIRST_ID, LAST) if EXPIRING not in item]

    def remove_items(self, job: DeletedJob, most: int) -> int:
        """Remove up to `most` items of a deleted job; return how many there were to remove, 0 when none is left."""
        places = [(held, FIRST_ID, LAST) for held in (partition(job.job_id), counts_partition(job.job_id))]
        places.append((DEAD_LETTERS, f"{job.job_id}-", f"{job.job_id}-{LAST}"))
        keys = [
            (held, str(item["sk"]))
            for held, low, high in places
            for item in self.table.query(held, low, high, limit=most)
        ][:most]
        self.table.delete_all([*keys, *keys_of_job(job.job_id, job.owner)])
        return len(keys)

    def mark_if_removed(self, job_id: str) -> None:
        """Mark a job that does not exist as deleted again, so that what was written after its removal is removed.

        Each such mark has a value of its own, so that a removal that ends just now does not take it away.
        """
        if not self.existing([job_id]):
            self.table.set(DELETED, job_id, {MARKED_AGAIN: new_id()})

    def forget_deleted(self, job: DeletedJob) -> None:
        """Take back the mark of a deleted job of which nothing is left, unless it was marked again since."""
        if job.marked_again:
            self.table.delete_if(DELETED, job.job_id, f"#{MARKED_AGAIN} = :read", {"read": job.marked_again})
        else:
            self.table.delete_if(DELETED, job.job_id, f"attribute_not_exists( #{MARKED_AGAIN} )")

    # Images

    def record_images(self, images: Sequence[ImageRecord], touched_at: datetime) -> None:
        """Record accepted images, and that their jobs are open.

        Raises:
            TableBusyError: when some could not be recorded; recording all again is safe.
            NotFoundError: when one of the jobs is being deleted.
        """
        job_ids = list(dict.fromkeys(image.ref.job_id for image in images))
        opened = [_open_item(job_id, touched_at) for job_id in job_ids]
        self.table.put_all([*opened, *(image_item(image) for image in images)])
        self._check_not_deleted(job_ids)

    def reopen(self, job_id: str, touched_at: datetime) -> None:
        """Record that the job may have images without a result.

        Raises:
            TableBusyError: when it could not be recorded; recording it again is safe.
            NotFoundError: when the job is being deleted.
        """
        self.table.put_all([_open_item(job_id, touched_at)])
        self._check_not_deleted([job_id])

    def _check_not_deleted(self, job_ids: Sequence[str]) -> None:
        for item in self.table.get_all([(DELETED, job_id) for job_id in job_ids]):
            raise no_job(str(item["sk"]))

    def images_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, ImageRecord]:
        """Return the records of those of `refs`, each once, that are accepted images.

        Raises:
            TableBusyError: when some could not be read.
        """
        items = self.table.get_all([(partition(ref.job_id), f"{IMAGE}{ref.image_id}") for ref in refs])
        found = (image_of(str(item["pk"]).partition("#")[2], item) for item in items)
        return {record.ref: record for record in found}

    def replace_image(self, before: ImageRecord, after: ImageRecord) -> bool:
        """Put `after` over the record `before`; return False if the record has another attempt meanwhile.

        So of two retries that read the same record, only one raises its attempt.
        """
        if before.attempt:
            return self.table.put_if(image_item(after), "#attempt = :before", {"before": before.attempt})
        return self.table.put_if(image_item(after), "attribute_exists( #pk ) AND attribute_not_exists( #attempt )")

    def note_retried(self, job_id: str, at: datetime) -> None:
        """Record when failed images of a job were last retried, and that it is open; after the images themselves.

        Raises:
            TableBusyError: when it could not be recorded; noting it again is safe.
        """
        self.table.put_all(
            [{"pk": counts_partition(job_id), "sk": RETRIED, "at": at.isoformat()}, _open_item(job_id, at)]
        )

    def retried_at(self, job_id: str) -> datetime | None:
        """Return when failed images of a job were last retried, if ever."""
        item = self.table.get(counts_partition(job_id), RETRIED)
        return None if item is None else moment_in(item, "at")

    def forget_images(self, refs: Sequence[ImageRef]) -> None:
        """Take back the records of images that were not accepted after all, and the results of repeated ones.

        Raises:
            TableBusyError: when some could not be taken back; forgetting all again is safe.
        """
        keys = [(partition(ref.job_id), ref.image_id) for ref in refs]
        self.table.delete_all([(held, f"{kind}{image_id}") for held, image_id in keys for kind in (IMAGE, RESULT)])

    def put_accepted_count(self, job_id: str, writer_id: str, said: AcceptedCount) -> None:
        """Record how many images the process `writer_id` has accepted for the job, in all; never lowers it."""
        self.table.set(
            counts_partition(job_id),
            f"{SAID}{writer_id}",
            accepted_attributes(said),
            condition="attribute_not_exists( #accepted ) OR #accepted < :accepted",
        )

    def put_accepted_counts(self, said: Mapping[str, tuple[str, AcceptedCount]]) -> None:
        """Record the same of several jobs, by their ids, where no other process writes under these writer ids.

        Raises:
            TableBusyError: when some could not be recorded; recording all again is safe.
        """
        self.table.put_all(
            [
                {"pk": counts_partition(job_id), "sk": f"{SAID}{writer_id}", **accepted_attributes(words)}
                for job_id, (writer_id, words) in said.items()
            ]
        )

    def image(self, ref: ImageRef) -> ImageRecord:
        """Return the record of one image.

        Raises:
            NotFoundError: when there is none.
        """
        item = self.table.get(partition(ref.job_id), f"{IMAGE}{ref.image_id}")
        if item is None:
            raise no_image(ref)
        return image_of(ref.job_id, item)

    def whole_image(self, ref: ImageRef, owner: str) -> tuple[Job, ImageRecord, Response | None, Resend | None]:
        """Return an image's job, its record and, if there are any, its result and its resend; in one read.

        Raises:
            NotFoundError: when `owner` has no such job, or it has no such image.
            TableBusyError: when they could not be read.
        """
        held, kinds = partition(ref.job_id), [f"{kind}{ref.image_id}" for kind in (IMAGE, RESULT, RESENT)]
        items = self.table.get_all([(JOBS, ref.job_id), *((held, kind) for kind in kinds)])
        found = {str(item["sk"]): item for item in items}
        job, record, result, resend = (found.get(key) for key in (ref.job_id, *kinds))
        if job is None or job_of(job).owner != owner:
            raise no_job(ref.job_id)
        if record is None:
            raise no_image(ref)
        response = None if result is None else Response.from_json(str(result["response"]))
        return job_of(job), image_of(ref.job_id, record), response, None if resend is None else resend_of(resend)

    def images(self, job_id: str, after: str | None = None, limit: int | None = None) -> Iterator[ImageRecord]:
        """Yield a job's images in the order of their ids, those beyond the image id `after`."""
        beyond = IMAGE if after is None else f"{IMAGE}{after}\x00"
        for item in self.table.query(partition(job_id), beyond, IMAGE + LAST, limit=limit):
            yield image_of(job_id, item)

    def count_images(self, job_id: str) -> int:
        """Return how many images of the job are recorded; costs more the more there are."""
        return self.table.count(partition(job_id), IMAGE)

    # Results

    def put_done(self, responses: Sequence[Response]) -> None:
        """Put results with status `done`, over results that are there.

        Raises:
            TableBusyError: when some could not be put; putting all again is safe.
        """
        self.table.put_all([result_item(response) for response in responses])

    def put_failed(self, response: Response) -> bool:
        """Put a result with status `failed`; return False if the image is done or a later attempt has failed."""
        free = (
            "attribute_not_exists( #pk )"
            " OR ( #status = :failed AND ( attribute_not_exists( #attempt ) OR #attempt <= :attempt ) )"
        )
        return self.table.put_if(result_item(response), free, {"failed": "failed", "attempt": response.attempt})

    def result(self, ref: ImageRef) -> Response | None:
        """Return the result of one image, or None as long as there is none."""
        item = self.table.get(partition(ref.job_id), f"{RESULT}{ref.image_id}")
        return None if item is None else Response.from_json(str(item["response"]))

    def results_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, Response]:
        """Return the results of those of `refs`, each once and of any jobs, that have one.

        Raises:
            TableBusyError: when some could not be read.
        """
        items = self.table.get_all([(partition(ref.job_id), f"{RESULT}{ref.image_id}") for ref in refs])
        found = (Response.from_json(str(item["response"])) for item in items)
        return {response.ref: response for response in found}

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Response]:
        """Return results by image id, from the image id `first` to `last`, both included."""
        items = self.table.query(partition(job_id), f"{RESULT}{first}", f"{RESULT}{last}")
        found = (Response.from_json(str(item["response"])) for item in items)
        return {response.image_id: response for response in found}

    def statuses(self, job_id: str) -> dict[str, Status]:
        """Return the status of every image of the job that has a result, by image id."""
        return {image_id: result.status for image_id, result in self.result_summaries(job_id).items()}

    def result_summaries(self, job_id: str) -> dict[str, ResultSummary]:
        """Return the summary of every result of the job, by image id."""
        found = self.table.query(partition(job_id), RESULT, RESULT + LAST)
        return {str(item["sk"]).removeprefix(RESULT): result_summary_of(item) for item in found}

    # Requests that were sent again

    def put_resends(self, job_id: str, resends: Mapping[str, Resend]) -> None:
        """Put how often the requests of images of a job were sent again, by image id; absolute figures.

        Raises:
            TableBusyError: when some could not be put; putting all again is safe.
        """
        self.table.put_all([resend_item(job_id, image_id, resend) for image_id, resend in resends.items()])

    def resends(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Resend]:
        """Return the resends by image id, from the image id `first` to `last`, both included; few images have one."""
        found = self.table.query(partition(job_id), f"{RESENT}{first}", f"{RESENT}{last}")
        return {str(item["sk"]).removeprefix(RESENT): resend_of(item) for item in found}

    # Counts

    def counts(self, job_id: str) -> Counts:
        """Return what the collector last stored of a job."""
        item = self.table.get(counts_partition(job_id), COUNTED)
        return Counts() if item is None else counts_of(item)

    def store_counts(self, job_id: str, counts: Counts, token: int = 0) -> bool:
        """Store a job's counts, absolute; only the controller does.

        Args:
            job_id: the job.
            counts: its counts.
            token: the controller's fencing token; returns False if a controller with a later one has stored counts.
        """
        attributes: dict[str, str | int] = {
            "done": counts.done,
            "cached": counts.cached,
            "failed": counts.failed,
            "images": counts.images,
            "system_retried": counts.system_retried,
            "resends": counts.resends,
            **times_as_text(counts.first_result_at, counts.last_result_at),
            **times_as_text(counts.first_cached_at, counts.last_cached_at, OF_CACHED),
            **runs_as_text(counts),
        }
        return self._put_fenced({"pk": counts_partition(job_id), "sk": COUNTED, **attributes}, token)

    def put_merged(self, job_id: str, merged: MergedFile, token: int = 0) -> bool:
        """Record that all results of a job stand as one file; `token` and the answer are as for `store_counts`."""
        item = {"key": merged.key, "edition": merged.edition, "at": merged.written_at.isoformat()}
        return self._put_fenced({"pk": counts_partition(job_id), "sk": MERGED, **item}, token)

    def forget_merged(self, job_id: str, touched_at: datetime) -> None:
        """Take back what `put_merged` recorded, and record that the job is open, so that the file is written again.

        Raises:
            NotFoundError: when the job was deleted; it is marked again, since a file may have been written since.
        """
        self.mark_if_removed(job_id)
        self.reopen(job_id, touched_at)
        self.table.delete_all([(counts_partition(job_id), MERGED)])

    def _put_fenced(self, item: Item, token: int) -> bool:
        """Put an item unless it was put with a later token; one that has no token is of an older version."""
        free = "attribute_not_exists( #token ) OR #token <= :token"
        return self.table.put_if({**item, "token": token}, free, {"token": token})

    # Open jobs

    def open_jobs(self) -> list[OpenJob]:
        """Return the jobs that may have images without a result."""
        return [OpenJob(str(item["sk"]), str(item["touched_at"])) for item in self.table.query(OPEN, FIRST_ID, LAST)]

    def is_open(self, job_id: str) -> bool:
        """Return True if the job may have images without a result."""
        return self.table.get(OPEN, job_id) is not None

    def count_open(self) -> int:
        """Return how many jobs may have images without a result."""
        return self.table.count(OPEN, FIRST_ID)

    def close(self, job: OpenJob) -> bool:
        """Take a job from the open ones unless images were added since it was read; tell whether it was taken."""
        return self.table.delete_if(OPEN, job.job_id, "#touched_at = :touched_at", {"touched_at": job.touched_at})


def no_job(job_id: str) -> NotFoundError:
    """Return what is said of a job that does not exist, and of a job of another user."""
    return NotFoundError(f"there is no job {job_id!r}")


def no_image(ref: ImageRef) -> NotFoundError:
    """Return what is said of an image that does not exist."""
    return NotFoundError(f"there is no image {ref.image_id!r} in job {ref.job_id!r}")


def _open_item(job_id: str, touched_at: datetime) -> Item:
    return {"pk": OPEN, "sk": job_id, "touched_at": touched_at.isoformat()}
