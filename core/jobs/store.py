"""The job store: jobs, their accepted images and the results, in one DynamoDB table.

Their states are in `core/jobs/lifecycle.py` and their figures in `core/jobs/figures.py`; all items are listed here.

| pk               | sk                 | content                                                   | written by |
| ---------------- | ------------------ | --------------------------------------------------------- | ---------- |
| `JOBS`           | job id             | format, name, created_at, keep, owner, single, source,    | web        |
|                  |                    | source_pattern, results, model, digest, place,            |            |
|                  |                    | max_failed_percent: all jobs;                             |            |
|                  |                    | `reviewed`: its images may have true labels;              |            |
|                  |                    | `min_scores`, `finish_by`: as its user wants them;        |            |
|                  |                    | `only`: labels that can occur, `core/label_sets.py`;      |            |
|                  |                    | `shares`: who else may read it: feature `sharing`         |            |
| `OWNED#` owner   | job id             | nothing: which jobs a user has                            | web        |
| `SINGLE`         | `OWNED#` owner, or | job_id, expires_at, and the job: takes the single images  | web        |
|                  | `JOBS`             | of a user at present                                      |            |
| `SHARED#` email  | job id             | expires_at: shared with that address: feature `sharing`   | web        |
| `OPEN`           | job id             | touched_at: there may be images without a result          | web        |
| `COUNTS#` job id | `CANCELLED`        | at: when the job was cancelled; a retry deletes it;       | both       |
|                  |                    | reason: why the controller did so                         |            |
| `COUNTS#` job id | `UNLIMITED`        | a retry went on after that: its failures have no limit    | web        |
| `COUNTS#` job id | `ACCEPTED`         | images, packs, presigned: how many were accepted, by so   | both       |
|                  |                    | many transactions: acceptances;                           |            |
|                  |                    | swept_before: `core/jobs/sweeps.py`                       |            |
| `COUNTS#` job id | `COUNTED`          | done, failed, cancelled, first, last result, runs,        | controller |
|                  |                    | system_retried, resends, answered_packs,                  |            |
|                  |                    | answered_retries, revision; token: the fence              |            |
| `COUNTS#` job id | `MERGED`           | key, edition, at: the file with all results               | controller |
| `COUNTS#` job id | `TARGET`           | version, error: the user's copy of that file              | controller |
| `COUNTS#` job id | `RETRIED`          | at: when failed images were last requested again;         | web        |
|                  |                    | images, packs: how many were, over all retries            |            |
| `COUNTS#` job id | `SOURCE`           | how far its source is listed: `core/jobs/listings.py`     | controller |
| `LISTINGS`       | job id             | its source may not be listed: `core/jobs/listings.py`     | both       |
| `JOB#` job id    | `PACK#` pack id    | at, owner, model, `only`: as in its job; of its images:   | web        |
|                  |                    | names, sizes, extensions; attempts, retried_at, models:   |            |
|                  |                    | of those that were retried; source: objects of its user   |            |
|                  |                    | that have them                                            |            |
| `JOB#` job id    | `RESULT#` pack id  | results; states: what a summary of each needs; resent:    | controller |
|                  |                    | requests that were sent again because a message was       |            |
|                  |                    | presumed lost; version: how often it was written          |            |
| `JOB#` job id    | `TRUTH#` image id  | label, set_at, source: its true label, set by its user    | web        |
| `JOB#` job id    | `KEY#` key         | the first upload with that key: `core/jobs/uploads.py`    | web        |
| `NOTIFY`         | job or message id  | what is not announced yet: feature `notifications`        | controller |
| `FLEET`          | `MESSAGES`         | last messages on caps and outages: the same feature       | controller |
| `SWEEPS`         | job id             | at, seen_at: objects may stay without an item:            | both       |
|                  |                    | `core/jobs/sweeps.py`                                     |            |
| `DELETED`        | job id             | owner, shares: the rest of this job must be removed;      | both       |
|                  |                    | while `expiring` is set, it must not be removed yet;      |            |
|                  |                    | `marked_again`: something was written after its removal   |            |
| `DEADLETTERS`    | ids, attempt       | given up: `web_tier/features/dead_letters/store.py`       | both       |
| `FLEET`          | all                | items of the fleet: `core/fleet/store.py`                 | both       |
| `MODELS`         | `CATALOG`          | the models of new jobs: `core/model_catalog.py`           | both       |

Without sign-in a job has no owner and no item of `OWNED#`. Both items are written by one call. Only if DynamoDB
leaves one unprocessed can a process end between them, and then before it answers. A deletion removes both; if it is
interrupted, its mark repeats it.

What is counted is added in the transaction that writes the item: the images of a pack together with `ACCEPTED`, their
results together with `COUNTED`. Its conditions make it happen once, so counts and items agree at any moment. Other
writes are idempotent puts. `done` beats `failed`, and the failure of a later attempt beats that of an earlier one.

Attempts of an image are numbered: a retry raises the number in the pack's item, and request, prediction and response
carry it. An image is being retried while its failed result has a lower number than its record.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from core.ids import FIRST_ID, ImageRef, first_id_of, pack_of
from core.jobs.items import (
    ACCEPTED,
    CANCELLED,
    COPIED,
    COUNTED,
    DELETED,
    JOBS,
    LISTING,
    MERGED,
    MIN_SCORES,
    PACK,
    RESULT,
    RETRIED,
    REVIEWED,
    SINGLE,
    TRUTH,
    copy_of,
    counts_of,
    counts_partition,
    job_item,
    job_model_attributes,
    job_of,
    jobs_partition,
    listing_of,
    merged_of,
    min_scores_as_text,
    moment_in,
    open_item,
    partition,
    single_job_item,
    single_job_of,
    truth_item,
    truth_of,
)
from core.jobs.lifecycle import DeletedJobs, OpenJobs, no_job
from core.jobs.models import (
    ImageRecord,
    Job,
    JobStatus,
    MinScores,
    ResultSummary,
    SourceListing,
    TrueLabel,
)
from core.jobs.packs import Pack, by_pack, images_in, pack_item
from core.jobs.reader import JobReader
from core.jobs.results import Answer, answers_in
from core.jobs.sweeps import IS_YOUNG, SweptError
from core.messages import ClassificationResult
from core.model_catalog import JobModel
from services.batches import in_batches
from services.errors import NotFoundError
from services.table import (
    BATCH,
    EXPIRES_AT,
    IS_NEW,
    LAST,
    MAX_TRANSACTION_ITEMS,
    PAGE,
    ConditionCheck,
    ConditionsFailedError,
    Item,
    Put,
    Table,
    TableBusyError,
    TransactedWrite,
    Update,
)

MAX_CHANGES = 10
"""Writes of one change of a job while others change it at the same moment."""

MAX_RECORDED = MAX_TRANSACTION_ITEMS - 4
"""Packs of a transaction. It also counts images, marks their job as open, checks that it is not being deleted, and
may record how far a source is listed."""


@dataclass(frozen=True)
class JobStore(JobReader):
    """Reads and writes the job table.

    Any method may raise TableBusyError: some items were not read or written, and calling it again is safe. What names
    a job or an image raises NotFoundError if it does not exist, and what adds to a job also if it is being deleted.
    """

    # Jobs

    def create(self, *jobs: Job) -> None:
        """Record new jobs."""
        for some in in_batches(jobs, BATCH // 2):
            owned = ({"pk": jobs_partition(job.owner), "sk": job.job_id} for job in some if job.owner)
            self.table.put_all([*map(job_item, some), *owned])

    def job(self, job_id: str) -> Job:
        """Return a job."""
        item = self.table.get(JOBS, job_id)
        if item is None:
            raise no_job(job_id)
        return job_of(item)

    def job_intake(self, job_id: str) -> tuple[Job, str | None, int]:
        """Return a job, why it is cancelled, and how many images it has accepted, in one read.

        Why is None if it is not cancelled, and an empty text if its user has cancelled it.
        """
        counts = counts_partition(job_id)
        items = self.table.get_all([(JOBS, job_id), (counts, CANCELLED), (counts, ACCEPTED)])
        found = {str(item["sk"]): item for item in items}
        if job_id not in found:
            raise no_job(job_id)
        reason = str(found[CANCELLED].get("reason", "")) if CANCELLED in found else None
        return job_of(found[job_id]), reason, int(found.get(ACCEPTED, {}).get("images", 0))

    def put_model(self, job: Job, model: JobModel | None) -> Job:
        """Give a job another model, for images that it gets or retries from now on; return it."""
        if not self._set(job, job_model_attributes(model)):
            raise no_job(job.job_id)
        return replace(job, model=model)

    def change_min_scores(self, job: Job, change: Callable[[MinScores], MinScores], touched_at: datetime) -> Job:
        """Change the `min_scores` of a job that was read before; return the job with those that it has now.

        The job is marked as open, so that its results file is written again. A change that others make at the same
        moment stays: this one is made again on top of it.

        Raises:
            TableBusyError: others were faster `MAX_CHANGES` times.
        """
        # First, so that a process that ends after the change leaves a job of which the file is written again.
        OpenJobs(self.table).reopen(job.job_id, touched_at)
        for _ in range(MAX_CHANGES):
            before, after = job.min_scores, change(job.min_scores)
            absent = "attribute_not_exists( #min_scores ) OR " if before == MinScores() else ""
            unchanged = f"attribute_exists( #pk ) AND ( {absent}#min_scores = :before )"
            attributes, values = {MIN_SCORES: min_scores_as_text(after)}, {"before": min_scores_as_text(before)}
            if self._set(job, attributes, unchanged, values):
                # Again, since this process may have stood still until the job was closed.
                OpenJobs(self.table).reopen(job.job_id, touched_at)
                return replace(job, min_scores=after)
            job = self.job(job.job_id)
        raise TableBusyError(f"job {job.job_id!r} changed {MAX_CHANGES} times while it was changed here: try again")

    def _set(
        self, job: Job, attributes: Item, condition: str = "attribute_exists( #pk )", values: Item | None = None
    ) -> bool:
        """Set attributes of a job if `condition` holds for it; return whether it did."""
        return self.table.set(JOBS, job.job_id, attributes, condition, values)

    def existing(self, job_ids: Collection[str], owner: str = "") -> set[str]:
        """Return those of `job_ids`, each once, that exist; with `owner`, only jobs of that user."""
        return {
            str(item["sk"]) for item in self.table.get_all([(jobs_partition(owner), job_id) for job_id in job_ids])
        }

    def jobs_of(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Return the jobs with these ids, each once, that exist, by id."""
        return {str(item["sk"]): job_of(item) for item in self.table.get_all([(JOBS, each) for each in job_ids])}

    def jobs(self, limit: int, before: str | None = None, owner: str = "") -> list[Job]:
        """Return up to `limit` jobs of `owner`, newest first, older than the job id `before`."""
        found: list[Job] = []
        while len(found) < limit:
            items = self.table.query(
                jobs_partition(owner), FIRST_ID, before or LAST, limit=limit + 1, newest_first=True
            )
            page = [item for item in items if item["sk"] != before][:limit]
            ids = [str(item["sk"]) for item in page]
            jobs = (
                self.jobs_of(ids) if owner else {job_id: job_of(item) for job_id, item in zip(ids, page, strict=True)}
            )
            # The list of all jobs contains jobs of users, too, if there was a sign-in before.
            found += [jobs[job_id] for job_id in ids if job_id in jobs and jobs[job_id].owner == owner]
            if len(page) < limit:
                break
            before = ids[-1]
        return found[:limit]

    def newest_job(self) -> Job | None:
        """Return the job that was created last, of all users, or None if there is none."""
        return next(
            (job_of(item) for item in self.table.query(JOBS, FIRST_ID, LAST, limit=1, newest_first=True)), None
        )

    def jobs_until(self, moment: datetime) -> Iterator[Job]:
        """Yield the jobs that were created before `moment`, oldest first."""
        for item in self.table.query(JOBS, FIRST_ID, first_id_of(moment)):
            yield job_of(item)

    def status(self, job_id: str) -> JobStatus:
        """Return a job and its counts; costs the same however many images it has."""
        return self.status_of(self.job(job_id))

    def status_of(self, job: Job) -> JobStatus:
        """Return the status of a job that has just been read."""
        found = self.table.query(counts_partition(job.job_id), ACCEPTED, COPIED)
        items = {str(item["sk"]): item for item in found}
        merged, retried, cancelled, listing, copy = (
            items.get(kind) for kind in (MERGED, RETRIED, CANCELLED, LISTING, COPIED)
        )
        counts = counts_of(items.get(ACCEPTED), items.get(COUNTED), retried)
        return JobStatus(
            job,
            counts.images,
            counts,
            retried_at=moment_in(retried, "at") if retried else None,
            merged=merged_of(merged) if merged else None,
            cancelled_at=moment_in(cancelled, "at") if cancelled else None,
            listing=(listing_of(listing) if listing else SourceListing()) if job.source else None,
            copy=copy_of(copy) if copy else None,
            stopped=str(cancelled.get("reason", "")) if cancelled else "",
        )

    def taking_images(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Return the jobs with these ids, each once, that exist and are not cancelled, by id, in one read."""
        keys = [key for job_id in job_ids for key in ((JOBS, job_id), (counts_partition(job_id), CANCELLED))]
        items = self.table.get_all(keys)
        cancelled = {str(item["pk"]).partition("#")[2] for item in items if item["pk"] != JOBS}
        jobs = (job_of(item) for item in items if item["pk"] == JOBS)
        return {job.job_id: job for job in jobs if job.job_id not in cancelled}

    # Images

    def record_images(
        self,
        images: Sequence[ImageRecord],
        touched_at: datetime,
        also: Sequence[Put] = (),
        *,
        presigned: bool = False,
    ) -> list[ImageRecord]:
        """Record and count accepted images, and mark their jobs as open; return those that were not recorded before.

        The images of a pack are given together. Up to `MAX_RECORDED` packs of a job are recorded in one transaction,
        so all of them or none. Each transaction makes the write `also`, too. `presigned` is whether the images came
        by presigned forms.

        Raises:
            ConditionsFailedError: the condition of `also` does not hold.
            SweptError: objects of a transaction may be deleted; its images are not recorded.
        """
        by_job: dict[str, list[ImageRecord]] = {}
        for image in images:
            by_job.setdefault(image.ref.job_id, []).append(image)
        batches = (
            (job_id, some)
            for job_id, each in by_job.items()
            for some in in_batches([*map(Pack.of, by_pack(each))], MAX_RECORDED)
        )
        recorded = (
            pack
            for job_id, some in batches
            for pack in self._record_packs(job_id, some, touched_at, also, presigned=presigned)
        )
        new = {(pack.job_id, pack.pack_id) for pack in recorded}
        return [image for image in images if (image.ref.job_id, pack_of(image.ref.image_id)) in new]

    def _record_packs(
        self, job_id: str, packs: list[Pack], touched_at: datetime, also: Sequence[Put], *, presigned: bool
    ) -> list[Pack]:
        left = packs
        while left:
            first: list[TransactedWrite] = [
                ConditionCheck(DELETED, job_id, condition=IS_NEW),
                Put(open_item(job_id, touched_at)),
                Update(
                    counts_partition(job_id),
                    ACCEPTED,
                    {
                        "images": sum(len(pack.names) for pack in left),
                        "packs": len(left),
                        "acceptances": 1,
                        **({"presigned": len(left)} if presigned else {}),
                    },
                    {},
                    condition=IS_YOUNG,
                    values={"put_at": int(min(pack.accepted_at for pack in left).timestamp())},
                ),
            ]
            try:
                self.table.transact(*first, *(Put(pack_item(pack), condition=IS_NEW) for pack in left), *also)
            except ConditionsFailedError as error:
                if 0 in error.indexes:
                    raise no_job(job_id) from error
                if max(error.indexes) >= len(first) + len(left):
                    raise
                left = [pack for index, pack in enumerate(left, len(first)) if index not in error.indexes]
                if left and len(first) - 1 in error.indexes:
                    raise SweptError(f"images of the job {job_id!r} were put long ago: send them again") from error
            else:
                break
        return left

    def newest_image(self, job_id: str) -> str:
        """Return the id of the job's last image; an empty text if it has none."""
        packs = self.table.query(partition(job_id), PACK, PACK + LAST, limit=1, newest_first=True)
        newest = next((str(item["sk"]).removeprefix(PACK) for item in packs), LAST)
        return max((image_id for image_id, _ in self._by_image(PACK, images_in, job_id, newest)), default="")

    def missing_after(self, job_id: str, after: str, limit: int = PAGE) -> tuple[list[ImageRecord], str | None]:
        """Return those of the `limit` images after the image id `after` that have no result of their last attempt.

        Also return where to continue, or None after the last image.
        """
        images = list(self.images(job_id, after, limit))
        if not images:
            return [], None
        last = images[-1].ref.image_id
        # After the images: a result that is recorded in between is found.
        results = dict(self.summaries(job_id, images[0].ref.image_id, last))
        missing = [image for image in images if is_missing(image, results.get(image.ref.image_id))]
        return missing, last if len(images) == limit else None

    def still_missing(self, refs: Sequence[ImageRef]) -> list[ImageRecord]:
        """Return the records of those of `refs`, each once, that have no result of their last attempt."""
        records, results = self.images_of(refs), self.results_of(refs)
        return [record for ref, record in records.items() if is_missing(record, results.get(ref))]

    def find_accepted(
        self, refs: Collection[ImageRef]
    ) -> tuple[dict[str, Job], dict[ImageRef, ImageRecord], dict[ImageRef, Exception]]:
        """Return the existing jobs of `refs`, the records of those that are accepted, and why some were not read.

        Each call is tried once, and a job that cannot be read delays no other.
        """
        by_key = dict[tuple[str, str], list[ImageRef]]()
        for ref in refs:
            by_key.setdefault((JOBS, ref.job_id), []).append(ref)
            by_key.setdefault((partition(ref.job_id), f"{PACK}{pack_of(ref.image_id)}"), []).append(ref)
        items, left = self.table.get_each([*by_key])
        jobs, accepted = dict[str, Job](), dict[ImageRef, ImageRecord]()
        errors = {ref: error for key, error in left for ref in by_key[key]}
        for item in items:
            of_item = by_key[str(item["pk"]), str(item["sk"])]
            try:
                if item["pk"] == JOBS:
                    jobs[str(item["sk"])] = job_of(item)
                else:
                    images = images_in(item)
                    accepted |= {ref: images[ref.image_id] for ref in of_item if ref.image_id in images}
            except (KeyError, ValueError) as error:
                errors |= dict.fromkeys(of_item, error)
        return jobs, accepted, errors

    def replace_images(self, changes: Sequence[tuple[ImageRecord, ImageRecord]]) -> list[ImageRecord]:
        """Replace records of images of one pack, each given before and after; return those that are stored.

        A record that has another attempt meanwhile stays: of two retries that read the same record, only one raises
        its attempt. Only attempt, `retried_at` and model differ. A change of other images of the pack stays: this one
        is made again on top of it.

        Raises:
            TableBusyError: others were faster `MAX_CHANGES` times.
        """
        first, _ = changes[0]
        for _ in range(MAX_CHANGES):
            item = self.table.get(partition(first.ref.job_id), f"{PACK}{first.pack_id}")
            images = {} if item is None else {image.ref: image for image in images_in(item).values()}
            new = {
                after.ref: after
                for before, after in changes
                if before.ref in images and images[before.ref].attempt == before.attempt
            }
            if item is None or not new:
                return []
            known = {"before": item["attempts"]} if "attempts" in item else None
            is_as_read = "#attempts = :before" if known else "attribute_not_exists( #attempts )"
            changed = pack_item(Pack.of([*(images | new).values()]))
            if self.table.put_if(changed, f"attribute_exists( #pk ) AND {is_as_read}", known):
                return list(new.values())
        raise TableBusyError(f"pack {first.pack_id!r} changed {MAX_CHANGES} times while it was changed: try again")

    def put_retried(self, job_id: str, at: datetime, images: Collection[ImageRecord]) -> None:
        """Record when failed images of a job were retried, and mark it as open; after the images themselves."""
        packs = {(image.pack_id, image.attempt) for image in images}
        amounts = {"images": len(images), "packs": len(packs)}
        retried = Update(counts_partition(job_id), RETRIED, amounts, {"at": at.isoformat()})
        self.table.transact(retried, Put(open_item(job_id, at)))

    def retried_at(self, job_id: str) -> datetime | None:
        """Return when failed images of a job were last retried, if ever."""
        item = self.table.get(counts_partition(job_id), RETRIED)
        return None if item is None else moment_in(item, "at")

    def image(self, ref: ImageRef) -> ImageRecord:
        """Return the record of one image."""
        return _existing(ref, self.images_of([ref]).get(ref))

    def whole_image(
        self, ref: ImageRef, may_read: Callable[[Job], bool]
    ) -> tuple[Job, ImageRecord, Answer, TrueLabel | None]:
        """Return an image's job, its record, its result and resend, and its true label if it has one, in one read.

        Raises:
            NotFoundError: there is no such job, or `may_read` returns False for it, or it has no such image.
        """
        pack_id = pack_of(ref.image_id)
        kinds = [f"{PACK}{pack_id}", f"{RESULT}{pack_id}", f"{TRUTH}{ref.image_id}"]
        items = self.table.get_all([(JOBS, ref.job_id), *((partition(ref.job_id), kind) for kind in kinds)])
        found = {str(item["sk"]): item for item in items}
        job, pack, results, truth = (found.get(key) for key in (ref.job_id, *kinds))
        if job is None or not may_read(job_of(job)):
            raise no_job(ref.job_id)
        return (
            job_of(job),
            _existing(ref, None if pack is None else images_in(pack).get(ref.image_id)),
            Answer() if results is None else answers_in(results).get(ref.image_id, Answer()),
            None if truth is None else truth_of(truth),
        )

    # True labels

    def set_truths(self, job: Job, truths: Mapping[str, TrueLabel | None]) -> None:
        """Set true labels of images of a job that has just been read, by image id; None removes one.

        Raises:
            NotFoundError: the job was deleted; what was written is removed.
        """
        # First: true labels of a job without this mark would not be read.
        if not (job.is_reviewed or self._set(job, {REVIEWED: 1})):
            raise no_job(job.job_id)
        self.table.put_all(
            [truth_item(job.job_id, image_id, truth) for image_id, truth in truths.items() if truth is not None]
        )
        self.table.delete_all(
            [(partition(job.job_id), f"{TRUTH}{image_id}") for image_id, truth in truths.items() if truth is None]
        )
        if not self.existing([job.job_id]):
            DeletedJobs(self.table).mark_if_removed(job.job_id)
            raise no_job(job.job_id)


def is_missing(image: ImageRecord, result: ResultSummary | ClassificationResult | None) -> bool:
    """Return whether an image has no result of its last attempt, and no label."""
    return result is None or (result.status == "failed" and result.attempt < image.attempt)


def _existing(ref: ImageRef, record: ImageRecord | None) -> ImageRecord:
    if record is None:
        raise NotFoundError(f"there is no image {ref.image_id!r} in job {ref.job_id!r}")
    return record


@dataclass(frozen=True)
class SingleJobs:
    """Which job takes the single images of each user at present; errors are those of `JobStore`."""

    table: Table

    def find_current(self, owners: Collection[str], now: datetime) -> dict[str, Job]:
        """Return the current jobs of these users, by user; not all users have one.

        A current job may not exist yet, and may have been deleted or cancelled since.
        """
        items = self.table.get_all([(SINGLE, jobs_partition(owner)) for owner in dict.fromkeys(owners)])
        jobs = [single_job_of(item) for item in items if int(item[EXPIRES_AT]) > now.timestamp()]
        return {job.owner: job for job in jobs}

    def make_current(self, job: Job, now: datetime, until: datetime, before: str) -> bool:
        """Make a job the current one of its owner until a moment.

        Returns False, and changes nothing, if another job is current that is not the job with the id `before`.
        """
        return self.table.put_if(
            single_job_item(job, until),
            "attribute_not_exists( #pk ) OR #expires_at <= :now OR #job_id = :before",
            {"now": int(now.timestamp()), "before": before},
        )
