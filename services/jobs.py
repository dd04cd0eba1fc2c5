"""The job store: jobs, their accepted images and the results, in one DynamoDB table.

| pk               | sk                 | holds                                                     | written by |
| ---------------- | ------------------ | --------------------------------------------------------- | ---------- |
| `JOBS`           | job id             | name, created_at, keep: the list of jobs                  | web        |
| `OPEN`           | job id             | touched_at: there may be images without a result          | web        |
| `COUNTS#` job id | `COUNTED`          | done, cached, failed, images, first, last result, runs    | collector  |
| `COUNTS#` job id | `MERGED`           | key, edition, at: where all results stand as one file     | controller |
| `COUNTS#` job id | `RETRIED`          | at: when failed images were last requested again          | web        |
| `COUNTS#` job id | `SAID#` writer id  | images this web process has accepted, and answered itself | web        |
| `JOB#` job id    | `IMAGE#` image id  | filename, key, bytes, accepted_at, cached, retried_at     | web        |
| `JOB#` job id    | `RESULT#` image id | status and the response; of a cached one written by web   | collector  |
| `JOB#` job id    | `SLICE#` key       | what a repeatable request has put: `services/slices.py`   | web        |
| `JOB#` job id    | `UPLOAD#` id       | its images that are counted: `services/upload_counts.py`  | web        |
| `DELETED`        | job id             | what is left of this job is to be removed                 | web        |
| `FLEET`          | `SNAPSHOT`         | what the autoscaler saw and decided last                  | controller |
| `FLEET`          | others             | the rest of the fleet's: `services/fleet_store.py`        | both       |

The result of an image that was answered from the cache (`services/cache.py`) is written before the image's record, so
that whoever sees such a record finds its result.

Every write is an absolute figure or an idempotent put, so any of them may be repeated. `done` beats `failed`.
How many images a job has is the greater of two lower bounds: the sum of what the web processes say, and what the
controller last counted; so a process that dies between two writes makes no figure wrong for long. The same holds for
how many were answered from the cache.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.errors import NotFoundError
from services.ids import ImageRef, first_id_of
from services.job_items import (
    COUNTED,
    DELETED,
    FIRST_ID,
    FLEET,
    IMAGE,
    JOBS,
    MERGED,
    OPEN,
    RESULT,
    RETRIED,
    SAID,
    SNAPSHOT,
    counts_of,
    counts_partition,
    image_item,
    image_of,
    job_of,
    merged_of,
    moment_in,
    partition,
    result_item,
    runs_as_text,
    said_of,
    times_as_text,
)
from services.job_records import Counts, ImageRecord, Job, JobStatus, MergedFile, OpenJob, Said, with_said
from services.messages import FleetSnapshot, Response, Status
from services.table import LAST, Item, Table


@dataclass(frozen=True)
class JobStore:
    """Reads and writes the job table."""

    table: Table

    # Jobs

    def create(self, job: Job) -> None:
        """Record a new job."""
        item = {"pk": JOBS, "sk": job.job_id, "name": job.name, "created_at": job.created_at.isoformat()}
        self.table.put_all([{**item, "keep": int(job.keep)}])

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: when there is none.
        """
        item = self.table.get(JOBS, job_id)
        if item is None:
            raise NotFoundError(f"there is no job {job_id!r}")
        return job_of(item)

    def jobs(self, limit: int, before: str | None = None) -> list[Job]:
        """Return up to `limit` jobs, newest first, those older than the job id `before`."""
        high = before or LAST
        items = self.table.query(JOBS, FIRST_ID, high, limit=limit + 1, newest_first=True)
        return [job_of(item) for item in items if item["sk"] != before][:limit]

    def jobs_until(self, moment: datetime) -> Iterator[Job]:
        """Yield the jobs that were created before `moment`, oldest first."""
        for item in self.table.query(JOBS, FIRST_ID, first_id_of(moment)):
            yield job_of(item)

    def status(self, job_id: str) -> JobStatus:
        """Return a job and its counts; costs the same however many images it has.

        Raises:
            NotFoundError: when there is no such job.
        """
        job = self.job(job_id)
        found = self.table.query(counts_partition(job_id), COUNTED, SAID + LAST)
        items = {str(item["sk"]): item for item in found}
        counted, merged, retried = (items.pop(kind, None) for kind in (COUNTED, MERGED, RETRIED))
        counts = with_said(counts_of(counted) if counted else Counts(), [said_of(item) for item in items.values()])
        return JobStatus(
            job,
            max(counts.images, counts.done + counts.failed),
            counts,
            retried_at=moment_in(retried, "at") if retried else None,
            merged=merged_of(merged) if merged else None,
        )

    # Deletion

    def delete(self, job_id: str) -> None:
        """Take a job away: from here on it does not exist, and what is left of it waits to be removed.

        Raises:
            NotFoundError: when there is no such job.
            TableBusyError: when it could not be taken away for now; deleting again is safe.
        """
        self.job(job_id)
        # The mark first: whoever dies in between leaves a job that the controller takes away.
        self.table.put_all([{"pk": DELETED, "sk": job_id}])
        self.table.delete_all([(JOBS, job_id), (OPEN, job_id)])

    def deleted_jobs(self) -> list[str]:
        """Return the ids of deleted jobs of which something may be left."""
        return [str(item["sk"]) for item in self.table.query(DELETED, FIRST_ID, LAST)]

    def remove_items(self, job_id: str, most: int) -> int:
        """Remove up to `most` items of a deleted job; return how many there were to remove, 0 when none is left."""
        keys = [
            (held, str(item["sk"]))
            for held in (partition(job_id), counts_partition(job_id))
            for item in self.table.query(held, FIRST_ID, LAST, limit=most)
        ][:most]
        self.table.delete_all([*keys, (JOBS, job_id), (OPEN, job_id)])
        return len(keys)

    def forget_deleted(self, job_id: str) -> None:
        """Take back the mark of a deleted job of which nothing is left."""
        self.table.delete_all([(DELETED, job_id)])

    # Images

    def record_images(self, images: Sequence[ImageRecord], touched_at: datetime) -> None:
        """Record accepted images of one job, and that the job is open.

        Raises:
            TableBusyError: when some could not be recorded; recording all again is safe.
        """
        if images:
            opened = _open_item(images[0].ref.job_id, touched_at)
            self.table.put_all([opened, *(image_item(image) for image in images)])

    def reopen(self, job_id: str, touched_at: datetime) -> None:
        """Record that the job may have images without a result.

        Raises:
            TableBusyError: when it could not be recorded; recording it again is safe.
        """
        self.table.put_all([_open_item(job_id, touched_at)])

    def images_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, ImageRecord]:
        """Return the records of those of `refs`, each once, that are accepted images.

        Raises:
            TableBusyError: when some could not be read.
        """
        items = self.table.get_all([(partition(ref.job_id), f"{IMAGE}{ref.image_id}") for ref in refs])
        found = (image_of(str(item["pk"]).partition("#")[2], item) for item in items)
        return {record.ref: record for record in found}

    def note_retried(self, images: Sequence[ImageRecord], at: datetime) -> None:
        """Record that failed images of one job have been requested again.

        Raises:
            TableBusyError: when some could not be recorded; noting all again is safe.
        """
        if not images:
            return
        # The mark last: whoever sees it finds the images.
        mark: Item = {"pk": counts_partition(images[0].ref.job_id), "sk": RETRIED, "at": at.isoformat()}
        self.table.put_all([image_item(replace(image, retried_at=at)) for image in images])
        self.table.put_all([mark])

    def forget_images(self, refs: Sequence[ImageRef]) -> None:
        """Take back the records of images that were not accepted after all, and the results of repeated ones.

        Raises:
            TableBusyError: when some could not be taken back; forgetting all again is safe.
        """
        keys = [(partition(ref.job_id), ref.image_id) for ref in refs]
        self.table.delete_all([(held, f"{kind}{image_id}") for held, image_id in keys for kind in (IMAGE, RESULT)])

    def say_accepted(self, job_id: str, writer_id: str, said: Said) -> None:
        """Record how many images the process `writer_id` has accepted for the job, in all; never lowers it."""
        self.table.set(
            counts_partition(job_id),
            f"{SAID}{writer_id}",
            {"accepted": said.accepted, "cached": said.cached, **times_as_text(said.first_at, said.last_at)},
            condition="attribute_not_exists( #accepted ) OR #accepted < :accepted",
        )

    def image(self, ref: ImageRef) -> ImageRecord:
        """Return the record of one image.

        Raises:
            NotFoundError: when there is none.
        """
        item = self.table.get(partition(ref.job_id), f"{IMAGE}{ref.image_id}")
        if item is None:
            raise NotFoundError(f"there is no image {ref.image_id!r} in job {ref.job_id!r}")
        return image_of(ref.job_id, item)

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
        """Put results with status `done`, over whatever is there.

        Raises:
            TableBusyError: when some could not be put; putting all again is safe.
        """
        self.table.put_all([result_item(response) for response in responses])

    def put_failed(self, response: Response) -> bool:
        """Put a result with status `failed` unless the image is done; tell whether it was put."""
        free = "attribute_not_exists( #pk ) OR #status = :failed"
        return self.table.put_if(result_item(response), free, {"failed": "failed"})

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
        return {
            str(item["sk"]).removeprefix(RESULT): "done" if item["status"] == "done" else "failed"
            for item in self.table.query(partition(job_id), RESULT, RESULT + LAST)
        }

    # Counts

    def counts(self, job_id: str) -> Counts:
        """Return what the collector last stored of a job."""
        item = self.table.get(counts_partition(job_id), COUNTED)
        return Counts() if item is None else counts_of(item)

    def store_counts(self, job_id: str, counts: Counts) -> None:
        """Store a job's counts, absolute; only the collector does."""
        attributes: dict[str, str | int] = {
            "done": counts.done,
            "cached": counts.cached,
            "failed": counts.failed,
            "images": counts.images,
            **times_as_text(counts.first_result_at, counts.last_result_at),
            **runs_as_text(counts),
        }
        self.table.put_all([{"pk": counts_partition(job_id), "sk": COUNTED, **attributes}])

    def put_merged(self, job_id: str, merged: MergedFile) -> None:
        """Record that all results of a job stand as one file; only the controller does."""
        item = {"key": merged.key, "edition": merged.edition, "at": merged.written_at.isoformat()}
        self.table.put_all([{"pk": counts_partition(job_id), "sk": MERGED, **item}])

    # Open jobs

    def open_jobs(self) -> list[OpenJob]:
        """Return the jobs that may have images without a result."""
        return [OpenJob(str(item["sk"]), str(item["touched_at"])) for item in self.table.query(OPEN, FIRST_ID, LAST)]

    def count_open(self) -> int:
        """Return how many jobs may have images without a result."""
        return self.table.count(OPEN, FIRST_ID)

    def close(self, job: OpenJob) -> bool:
        """Take a job from the open ones unless images were added since it was read; tell whether it was taken."""
        return self.table.delete_if(OPEN, job.job_id, "#touched_at = :touched_at", {"touched_at": job.touched_at})

    # Fleet

    def put_fleet(self, snapshot: FleetSnapshot) -> None:
        """Store what the autoscaler saw and decided."""
        self.table.put_all([{"pk": FLEET, "sk": SNAPSHOT, "snapshot": snapshot.to_json()}])

    def fleet(self) -> FleetSnapshot | None:
        """Return what the autoscaler saw and decided last, or None before its first look."""
        item = self.table.get(FLEET, SNAPSHOT)
        return None if item is None else FleetSnapshot.from_json(str(item["snapshot"]))


def _open_item(job_id: str, touched_at: datetime) -> Item:
    return {"pk": OPEN, "sk": job_id, "touched_at": touched_at.isoformat()}
