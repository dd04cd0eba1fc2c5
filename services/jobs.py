"""The job store: jobs, their accepted images and the results, in one DynamoDB table.

| pk               | sk                 | holds                                                     | written by |
| ---------------- | ------------------ | --------------------------------------------------------- | ---------- |
| `JOBS`           | job id             | name, created_at, keep: the list of jobs                  | web        |
| `OPEN`           | job id             | touched_at: there may be images without a result          | web        |
| `COUNTS#` job id | `COUNTED`          | done, cached, failed, images counted, first, last result  | collector  |
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
from typing import Literal

from services.errors import NotFoundError
from services.ids import ImageRef, first_id_of
from services.messages import FleetSnapshot, Response, Status
from services.table import LAST, Item, Table

_FIRST_ID = "0"
JobState = Literal["empty", "running", "finished"]
_JOBS, _OPEN, _DELETED, _FLEET = "JOBS", "OPEN", "DELETED", "FLEET"
_COUNTED, _SAID, _IMAGE, _RESULT, _SNAPSHOT = "COUNTED", "SAID#", "IMAGE#", "RESULT#", "SNAPSHOT"
_MERGED, _RETRIED = "MERGED", "RETRIED"


@dataclass(frozen=True, slots=True)
class Job:
    """A batch of images that belong together.

    Attributes:
        keep: whether the images and the records stay; else an image is deleted once its label is stored, and the
            job expires.
    """

    job_id: str
    name: str
    created_at: datetime
    keep: bool = False


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as it was accepted.

    Attributes:
        filename: what its owner called it, and only data.
        key: where it is in the input bucket, if it is still kept there.
        size: in bytes.
        cached: whether it was answered at once, from the result of an earlier image with the same bytes.
        retried_at: when it was requested again after it had failed.
    """

    ref: ImageRef
    filename: str
    key: str
    size: int
    accepted_at: datetime
    cached: bool = False
    retried_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What has become of a job's images: absolute figures.

    Attributes:
        done: images with a label, `cached` of them from an earlier image with the same bytes.
        failed: images that cannot be classified.
        images: accepted images.
    """

    done: int = 0
    failed: int = 0
    images: int = 0
    first_result_at: datetime | None = None
    last_result_at: datetime | None = None
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What one web process says of a job: absolute figures.

    Attributes:
        accepted: images that it has accepted, `cached` of them answered by itself.
        first_at, last_at: when it answered the first and the last of those.
    """

    accepted: int = 0
    cached: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MergedFile:
    """The object in the output bucket that holds all results of a job.

    Attributes:
        key: where it is.
        edition: of the results that it was made of.
        written_at: when.
    """

    key: str
    edition: str
    written_at: datetime


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job and where it stands.

    Attributes:
        retried_at: when failed images were last requested again, if ever.
        merged: where all results stand as one file, once they do.
    """

    job: Job
    accepted: int
    counts: Counts
    retried_at: datetime | None = None
    merged: MergedFile | None = None

    @property
    def waiting(self) -> int:
        """Images that have no result yet."""
        return max(0, self.accepted - self.counts.done - self.counts.failed)

    @property
    def state(self) -> JobState:
        """`empty` before the first image, `finished` when every image has its result."""
        if self.accepted == 0:
            return "empty"
        return "running" if self.waiting else "finished"

    @property
    def edition(self) -> str:
        """Names the results that there are: another whenever they may be others."""
        counts = self.counts
        return f"{self.accepted}/{counts.done}/{counts.failed}/{counts.last_result_at}/{self.retried_at}"


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that may have images without a result; `touched_at` is when images were last added."""

    job_id: str
    touched_at: str


@dataclass(frozen=True)
class JobStore:
    """Reads and writes the job table."""

    table: Table

    # Jobs

    def create(self, job: Job) -> None:
        """Record a new job."""
        item = {"pk": _JOBS, "sk": job.job_id, "name": job.name, "created_at": job.created_at.isoformat()}
        self.table.put_all([{**item, "keep": int(job.keep)}])

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: when there is none.
        """
        item = self.table.get(_JOBS, job_id)
        if item is None:
            raise NotFoundError(f"there is no job {job_id!r}")
        return _job(item)

    def jobs(self, limit: int, before: str | None = None) -> list[Job]:
        """Return up to `limit` jobs, newest first, those older than the job id `before`."""
        high = before or LAST
        items = self.table.query(_JOBS, _FIRST_ID, high, limit=limit + 1, newest_first=True)
        return [_job(item) for item in items if item["sk"] != before][:limit]

    def jobs_until(self, moment: datetime) -> Iterator[Job]:
        """Yield the jobs that were created before `moment`, oldest first."""
        for item in self.table.query(_JOBS, _FIRST_ID, first_id_of(moment)):
            yield _job(item)

    def status(self, job_id: str) -> JobStatus:
        """Return a job and its counts; costs the same however many images it has.

        Raises:
            NotFoundError: when there is no such job.
        """
        job = self.job(job_id)
        found = self.table.query(_counts_partition(job_id), _COUNTED, _SAID + LAST)
        items = {str(item["sk"]): item for item in found}
        counted, merged, retried = (items.pop(kind, None) for kind in (_COUNTED, _MERGED, _RETRIED))
        counts = with_said(_counts(counted) if counted else Counts(), [_said(item) for item in items.values()])
        return JobStatus(
            job,
            max(counts.images, counts.done + counts.failed),
            counts,
            retried_at=_moment(retried, "at") if retried else None,
            merged=_merged(merged) if merged else None,
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
        self.table.put_all([{"pk": _DELETED, "sk": job_id}])
        self.table.delete_all([(_JOBS, job_id), (_OPEN, job_id)])

    def deleted_jobs(self) -> list[str]:
        """Return the ids of deleted jobs of which something may be left."""
        return [str(item["sk"]) for item in self.table.query(_DELETED, _FIRST_ID, LAST)]

    def remove_items(self, job_id: str, most: int) -> int:
        """Remove up to `most` items of a deleted job; return how many there were to remove, 0 when none is left."""
        keys = [
            (held, str(item["sk"]))
            for held in (partition(job_id), _counts_partition(job_id))
            for item in self.table.query(held, _FIRST_ID, LAST, limit=most)
        ][:most]
        self.table.delete_all([*keys, (_JOBS, job_id), (_OPEN, job_id)])
        return len(keys)

    def forget_deleted(self, job_id: str) -> None:
        """Take back the mark of a deleted job of which nothing is left."""
        self.table.delete_all([(_DELETED, job_id)])

    # Images

    def record_images(self, images: Sequence[ImageRecord], touched_at: datetime) -> None:
        """Record accepted images of one job, and that the job is open.

        Raises:
            TableBusyError: when some could not be recorded; recording all again is safe.
        """
        if not images:
            return
        opened: Item = {"pk": _OPEN, "sk": images[0].ref.job_id, "touched_at": touched_at.isoformat()}
        self.table.put_all([opened, *(_image_item(image) for image in images)])

    def reopen(self, job_id: str, touched_at: datetime) -> None:
        """Record that the job may have images without a result.

        Raises:
            TableBusyError: when it could not be recorded; recording it again is safe.
        """
        self.table.put_all([{"pk": _OPEN, "sk": job_id, "touched_at": touched_at.isoformat()}])

    def images_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, ImageRecord]:
        """Return the records of those of `refs`, each once, that are accepted images.

        Raises:
            TableBusyError: when some could not be read.
        """
        items = self.table.get_all([(partition(ref.job_id), f"{_IMAGE}{ref.image_id}") for ref in refs])
        found = (_image(str(item["pk"]).partition("#")[2], item) for item in items)
        return {record.ref: record for record in found}

    def note_retried(self, images: Sequence[ImageRecord], at: datetime) -> None:
        """Record that failed images of one job have been requested again.

        Raises:
            TableBusyError: when some could not be recorded; noting all again is safe.
        """
        if not images:
            return
        # The mark last: whoever sees it finds the images.
        mark: Item = {"pk": _counts_partition(images[0].ref.job_id), "sk": _RETRIED, "at": at.isoformat()}
        self.table.put_all([_image_item(replace(image, retried_at=at)) for image in images])
        self.table.put_all([mark])

    def forget_images(self, refs: Sequence[ImageRef]) -> None:
        """Take back the records of images that were not accepted after all, and the results of repeated ones.

        Raises:
            TableBusyError: when some could not be taken back; forgetting all again is safe.
        """
        keys = [(partition(ref.job_id), ref.image_id) for ref in refs]
        self.table.delete_all([(held, f"{kind}{image_id}") for held, image_id in keys for kind in (_IMAGE, _RESULT)])

    def say_accepted(self, job_id: str, writer_id: str, said: Said) -> None:
        """Record how many images the process `writer_id` has accepted for the job, in all; never lowers it."""
        self.table.set(
            _counts_partition(job_id),
            f"{_SAID}{writer_id}",
            {"accepted": said.accepted, "cached": said.cached, **_times(said.first_at, said.last_at)},
            condition="attribute_not_exists( #accepted ) OR #accepted < :accepted",
        )

    def image(self, ref: ImageRef) -> ImageRecord:
        """Return the record of one image.

        Raises:
            NotFoundError: when there is none.
        """
        item = self.table.get(partition(ref.job_id), f"{_IMAGE}{ref.image_id}")
        if item is None:
            raise NotFoundError(f"there is no image {ref.image_id!r} in job {ref.job_id!r}")
        return _image(ref.job_id, item)

    def images(self, job_id: str, after: str | None = None, limit: int | None = None) -> Iterator[ImageRecord]:
        """Yield a job's images in the order of their ids, those beyond the image id `after`."""
        beyond = _IMAGE if after is None else f"{_IMAGE}{after}\x00"
        for item in self.table.query(partition(job_id), beyond, _IMAGE + LAST, limit=limit):
            yield _image(job_id, item)

    def count_images(self, job_id: str) -> int:
        """Return how many images of the job are recorded; costs more the more there are."""
        return self.table.count(partition(job_id), _IMAGE)

    # Results

    def put_done(self, responses: Sequence[Response]) -> None:
        """Put results with status `done`, over whatever is there.

        Raises:
            TableBusyError: when some could not be put; putting all again is safe.
        """
        self.table.put_all([_result_item(response) for response in responses])

    def put_failed(self, response: Response) -> bool:
        """Put a result with status `failed` unless the image is done; tell whether it was put."""
        free = "attribute_not_exists( #pk ) OR #status = :failed"
        return self.table.put_if(_result_item(response), free, {"failed": "failed"})

    def result(self, ref: ImageRef) -> Response | None:
        """Return the result of one image, or None as long as there is none."""
        item = self.table.get(partition(ref.job_id), f"{_RESULT}{ref.image_id}")
        return None if item is None else Response.from_json(str(item["response"]))

    def results_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, Response]:
        """Return the results of those of `refs`, each once and of any jobs, that have one.

        Raises:
            TableBusyError: when some could not be read.
        """
        items = self.table.get_all([(partition(ref.job_id), f"{_RESULT}{ref.image_id}") for ref in refs])
        found = (Response.from_json(str(item["response"])) for item in items)
        return {response.ref: response for response in found}

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Response]:
        """Return results by image id, from the image id `first` to `last`, both included."""
        items = self.table.query(partition(job_id), f"{_RESULT}{first}", f"{_RESULT}{last}")
        found = (Response.from_json(str(item["response"])) for item in items)
        return {response.image_id: response for response in found}

    def statuses(self, job_id: str) -> dict[str, Status]:
        """Return the status of every image of the job that has a result, by image id."""
        return {
            str(item["sk"]).removeprefix(_RESULT): "done" if item["status"] == "done" else "failed"
            for item in self.table.query(partition(job_id), _RESULT, _RESULT + LAST)
        }

    # Counts

    def counts(self, job_id: str) -> Counts:
        """Return what the collector last stored of a job."""
        item = self.table.get(_counts_partition(job_id), _COUNTED)
        return Counts() if item is None else _counts(item)

    def store_counts(self, job_id: str, counts: Counts) -> None:
        """Store a job's counts, absolute; only the collector does."""
        attributes: dict[str, str | int] = {
            "done": counts.done,
            "cached": counts.cached,
            "failed": counts.failed,
            "images": counts.images,
            **_times(counts.first_result_at, counts.last_result_at),
        }
        self.table.put_all([{"pk": _counts_partition(job_id), "sk": _COUNTED, **attributes}])

    def put_merged(self, job_id: str, merged: MergedFile) -> None:
        """Record that all results of a job stand as one file; only the controller does."""
        item = {"key": merged.key, "edition": merged.edition, "at": merged.written_at.isoformat()}
        self.table.put_all([{"pk": _counts_partition(job_id), "sk": _MERGED, **item}])

    # Open jobs

    def open_jobs(self) -> list[OpenJob]:
        """Return the jobs that may have images without a result."""
        return [
            OpenJob(str(item["sk"]), str(item["touched_at"])) for item in self.table.query(_OPEN, _FIRST_ID, LAST)
        ]

    def count_open(self) -> int:
        """Return how many jobs may have images without a result."""
        return self.table.count(_OPEN, _FIRST_ID)

    def close(self, job: OpenJob) -> bool:
        """Take a job from the open ones unless images were added since it was read; tell whether it was taken."""
        return self.table.delete_if(_OPEN, job.job_id, "#touched_at = :touched_at", {"touched_at": job.touched_at})

    # Fleet

    def put_fleet(self, snapshot: FleetSnapshot) -> None:
        """Store what the autoscaler saw and decided."""
        self.table.put_all([{"pk": _FLEET, "sk": _SNAPSHOT, "snapshot": snapshot.to_json()}])

    def fleet(self) -> FleetSnapshot | None:
        """Return what the autoscaler saw and decided last, or None before its first look."""
        item = self.table.get(_FLEET, _SNAPSHOT)
        return None if item is None else FleetSnapshot.from_json(str(item["snapshot"]))


def with_result(counts: Counts, before: Status | None, now: Status, at: datetime) -> Counts:
    """Return `counts` after an image's result went from `before` (None: it had none) to `now`."""
    if before in {now, "done"}:
        return counts
    done = counts.done + (now == "done")
    failed = counts.failed + (now == "failed") - (before == "failed")
    first = counts.first_result_at or at
    return replace(counts, done=done, failed=failed, first_result_at=first, last_result_at=at)


def with_said(counts: Counts, said: Sequence[Said]) -> Counts:
    """Return what the collector counted, `counts`, completed by what the web processes say of the same job."""
    cached = max(counts.cached, sum(one.cached for one in said))
    firsts = [moment for moment in (counts.first_result_at, *(one.first_at for one in said)) if moment]
    lasts = [moment for moment in (counts.last_result_at, *(one.last_at for one in said)) if moment]
    return replace(
        counts,
        done=counts.done - counts.cached + cached,
        cached=cached,
        images=max(counts.images, sum(one.accepted for one in said)),
        first_result_at=min(firsts, default=None),
        last_result_at=max(lasts, default=None),
    )


def partition(job_id: str) -> str:
    """Return the table's partition that holds a job's images, results and slices."""
    return f"JOB#{job_id}"


def _counts_partition(job_id: str) -> str:
    # Apart from the images, so that what every page asks for is read from a partition of a few items.
    return f"COUNTS#{job_id}"


def _job(item: Item) -> Job:
    return Job(
        job_id=str(item["sk"]),
        name=str(item["name"]),
        created_at=datetime.fromisoformat(str(item["created_at"])),
        keep=bool(item.get("keep", 0)),
    )


def _image_item(image: ImageRecord) -> Item:
    item: dict[str, str | int] = {
        "pk": partition(image.ref.job_id),
        "sk": f"{_IMAGE}{image.ref.image_id}",
        "filename": image.filename,
        "key": image.key,
        "size": image.size,
        "accepted_at": image.accepted_at.isoformat(),
    }
    if image.cached:
        item["cached"] = 1
    if image.retried_at is not None:
        item["retried_at"] = image.retried_at.isoformat()
    return item


def _image(job_id: str, item: Item) -> ImageRecord:
    return ImageRecord(
        ref=ImageRef(job_id, str(item["sk"]).removeprefix(_IMAGE)),
        filename=str(item["filename"]),
        key=str(item["key"]),
        size=int(item["size"]),
        accepted_at=datetime.fromisoformat(str(item["accepted_at"])),
        cached="cached" in item,
        retried_at=_moment(item, "retried_at"),
    )


def _result_item(response: Response) -> Item:
    return {
        "pk": partition(response.job_id),
        "sk": f"{_RESULT}{response.image_id}",
        "status": response.status,
        "response": response.to_json(),
    }


def _counts(item: Item) -> Counts:
    return Counts(
        done=int(item["done"]),
        failed=int(item["failed"]),
        images=int(item["images"]),
        first_result_at=_moment(item, "first_at"),
        last_result_at=_moment(item, "last_at"),
        cached=int(item.get("cached", 0)),
    )


def _merged(item: Item) -> MergedFile:
    return MergedFile(str(item["key"]), str(item["edition"]), datetime.fromisoformat(str(item["at"])))


def _said(item: Item) -> Said:
    return Said(
        int(item["accepted"]), int(item.get("cached", 0)), _moment(item, "first_at"), _moment(item, "last_at")
    )


def _times(first: datetime | None, last: datetime | None) -> dict[str, str]:
    times = {"first_at": first, "last_at": last}
    return {name: moment.isoformat() for name, moment in times.items() if moment is not None}


def _moment(item: Item, name: str) -> datetime | None:
    return None if name not in item else datetime.fromisoformat(str(item[name]))
