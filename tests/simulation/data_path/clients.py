"""What clients and operators do, and what they know of it: the files that they sent and the answers that they got."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from ulid import ULID

from core.ids import ImageRef, new_id
from core.jobs.buckets import UNKEPT
from core.jobs.items import PACK
from core.jobs.lifecycle import Cancellations, DeletedJobs
from core.jobs.listings import ListingStore
from core.jobs.models import ImageRecord, Job, MinScores, Share, TrueLabel
from core.jobs.packs import images_in, pack_object
from core.jobs.shares import ShareStore
from core.jobs.store import JobStore
from core.model_catalog import CatalogStore, JobModel, ModelCatalog
from services.errors import FleetsightError
from services.s3 import UploadForm
from services.table import CLOUD_ERRORS
from tests.simulation.data_path.processes import FORM_SECONDS, PLACES, SOURCE, Kind, Web, first_catalog, picture
from tests.simulation.data_path.scheduler import EPOCH
from web_tier.features.dead_letters.redrive import redrive, redrive_all
from web_tier.features.dead_letters.store import DeadLetterStore
from web_tier.http.quotas import UNLIMITED, QuotaExceededError, QuotaScope
from web_tier.uploads.cancellation import cancel_job
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.ingest import UNCERTAIN, RejectedUpload, UploadResult
from web_tier.uploads.multipart import Upload
from web_tier.uploads.presigned import FileSpec
from web_tier.uploads.retry import retry_failed

if TYPE_CHECKING:
    from tests.simulation.data_path.world import World

Content = tuple[int, Kind]
Trouble = Literal["changed", "gone", "refused", "archived"]

OWNERS: Final = ("", "ann")
SHARE_SECONDS: Final = 30 * 86_400


@dataclass
class File:
    """What a client knows of one file that it sent.

    Attributes:
        acknowledged: its image, once the system said that it is accepted.
        rejected: whether the system said that it is not accepted, not only that it may have been stored.
        sent: whether it was sent once, perhaps without an answer.
        is_troubled: whether its object in a bucket of its owner was changed, removed or refused.
    """

    job_id: str
    name: str
    content: Content
    acknowledged: ImageRef | None = None
    rejected: bool = False
    sent: bool = False
    is_troubled: bool = False


@dataclass
class Clients:
    """All clients of a system.

    Attributes:
        files: what they sent, by name.
        deleted: the jobs that a client has deleted; False as long as it does not know whether it has.
        cancelled: the jobs that a client has asked to cancel.
        touched: when each job was used last, in seconds.
        retries: requests of each image that clients and operators asked for, at most.
        redriven: redrives of each image that were acknowledged.
        forms: by which files were sent into the bucket, each with the time at which it expires.
        callers: who adds images to a job, if the quota applies to it.
        discarded: the attempt at which the dead letter of an image was discarded.
        so_far: how many images a job has had as an upload sees it; None: few or many.
    """

    world: "World"
    files: dict[str, File] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    imported: list[Job] = field(default_factory=list)
    deleted: dict[str, bool] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    touched: dict[str, float] = field(default_factory=dict)
    retries: Counter[ImageRef] = field(default_factory=Counter)
    redriven: Counter[ImageRef] = field(default_factory=Counter)
    discarded: dict[ImageRef, int] = field(default_factory=dict)
    forms: list[tuple[Sequence[File], UploadForm, float]] = field(default_factory=list)
    callers: dict[str, str] = field(default_factory=dict)
    so_far: int | None = None
    operations: int = 0
    _last_upload: tuple[Job, Callable[[Web], None]] | None = None

    def new_job(
        self, *, keep: bool, is_limited: bool = True, results: str | None = None, has_model: bool = True
    ) -> None:
        """Make a job, for a client with a quota of its own or without one."""
        job_id, owner = new_id(), self.world.random.choice(OWNERS)
        name, results = f"job {len(self.jobs)}", self.world.random.choice(PLACES) if results is None else results
        model = self._default_model() if has_model else None
        job = Job(job_id, name, self.world.now(), keep, owner, results=results, model=model)
        JobStore(self.world.table).create(job)
        self.callers |= {job_id: name} if is_limited else {}
        self.jobs.append(job)
        self.touched[job.job_id] = self.world.scheduler.now

    def _default_model(self) -> JobModel | None:
        catalog = CatalogStore(self.world.table).find()
        return None if catalog is None else catalog.model_for_job(None)

    def use_model(self, name: str) -> None:
        """Give new jobs another model."""

        def change(catalog: ModelCatalog) -> ModelCatalog:
            return catalog.changed(default=catalog.named(name).digest)

        def operation(web: Web) -> None:
            CatalogStore(web.store.table).change(change, first_catalog)

        self._operate(operation)

    def import_job(self, contents: Sequence[Content], *, keep: bool) -> None:
        """Make a job of objects in a bucket; they stay there until the end."""
        self.operations += 1
        folder = f"folder-{self.operations}"
        job_id = new_id()
        source, results = f"s3://{SOURCE}/{folder}", self.world.random.choice(PLACES)
        model = self._default_model()
        owner = self.world.random.choice(OWNERS)
        job = Job(job_id, folder, self.world.now(), keep, owner, source=source, results=results, model=model)
        self.jobs.append(job)
        self.imported.append(job)
        self.touched[job.job_id] = self.world.scheduler.now
        for index, content in enumerate(contents):
            file = self._file(job, content, index)
            self.world.sources.objects[SOURCE, f"{folder}/{file.name}"] = picture(*content)
        self._operate(lambda web: ListingStore(web.store).create_job(job, "", web.now()))

    def trouble_source(self, number: int, how: Trouble) -> None:
        """Change, remove or refuse an object of which the last job is made."""
        if not self.imported:
            return
        job, sources = self.imported[-1], self.world.sources
        files = [file for file in self.files.values() if (SOURCE, f"{job.name}/{file.name}") in sources.objects]
        if not files:
            return
        file = files[number % len(files)]
        file.is_troubled, place = True, (SOURCE, f"{job.name}/{file.name}")
        match how:
            case "changed":
                sources.objects[place] = picture(5, "good")
            case "gone":
                del sources.objects[place]
            case "refused":
                sources.unreadable.add(place)
            case "archived":
                sources.archived.add(place)

    def change_source(self) -> None:
        """Put another object before all those that the last job is made of."""
        if self.imported:
            job = self.imported[-1]
            self.operations += 1
            name = f"{self.operations}.png"
            file = self.files[name] = File(job.job_id, name, (1, "good"))
            self.world.sources.objects[SOURCE, f"{job.name}/!/{file.name}"] = picture(*file.content)

    def existing_jobs(self) -> set[str]:
        """Return the ids of the jobs that clients made and that exist."""
        return JobStore(self.world.table).existing({job.job_id for job in self.jobs if not job.is_single})

    def upload(self, job: Job, contents: Sequence[Content], how: str) -> None:
        """Send files.

        They are sent plainly, under an idempotency key that is repeated until it is answered, directly into the
        bucket, or one by one without a job.
        """
        self.operations += 1
        files = [self._file(job, content, index) for index, content in enumerate(contents)]
        ways = {"plain": self._send, "keyed": self._send_once, "direct": self._send_directly}
        send = {**ways, "single": self._send_alone}[how]
        key = f"key-{self.operations}"

        def operation(web: Web) -> None:
            web.store.job(job.job_id)  # as the route does
            if job.source or Cancellations(web.store.table).find([job.job_id]):
                return
            try:
                send(web, job, files, key)
            except QuotaExceededError:
                for file in files:
                    file.rejected = True

        self._last_upload = job, operation
        self._operate(operation)

    def repeat_upload(self) -> None:
        """Send the last upload again, which had a key or forms; images without a result are requested again."""
        if self._last_upload is None:
            return
        job, upload = self._last_upload

        def operation(web: Web) -> None:
            self.retries.update(self.recorded(job))
            upload(web)

        self._operate(operation)

    def retry(self, job: Job) -> None:
        """Ask for the failed images of a job again."""

        def operation(web: Web) -> None:
            self.retries.update(self.recorded(job))
            web.store.job(job.job_id)
            if retry_failed(web.intake, job).sent:
                self.touched[job.job_id] = self.world.scheduler.now

        self._operate(operation)

    def cancel(self, job: Job) -> None:
        """Cancel a job; images without a result fail."""

        def operation(web: Web) -> None:
            cancel_job(web.intake, web.store.status(job.job_id))

        self.cancelled.add(job.job_id)
        self._operate(operation)

    def move_border(self, job: Job, score: float) -> None:
        """Change the scores below which labels of a job are unsure."""

        def operation(web: Web) -> None:
            web.store.change_min_scores(web.store.job(job.job_id), lambda _: MinScores(score), web.now())

        self._operate(operation)

    def review(self, job: Job) -> None:
        """Set the true labels of the images of a job."""
        refs = [ref for ref in self.recorded() if ref.job_id == job.job_id]

        def operation(web: Web) -> None:
            truths = {ref.image_id: TrueLabel("cat", web.now()) for ref in refs}
            web.store.set_truths(web.store.job(job.job_id), truths)

        self._operate(operation)

    def share(self, job: Job, number: int) -> None:
        """Share a job with one of some readers, or end the share."""
        share_id, email = f"share {number}", f"reader{number}@example.org"

        def operation(web: Web) -> None:
            shares, now = ShareStore(web.store.table), self.world.now().timestamp()
            if any(each.share_id == share_id for each in web.store.job(job.job_id).shares):
                shares.end(job.job_id, share_id)
            else:
                shares.add(job.job_id, Share(share_id, int(now) + SHARE_SECONDS, 1, "", email=email), now)

        self._operate(operation)

    def delete(self, job: Job) -> None:
        """Delete a job; it is gone once that is acknowledged, and unknown before."""

        def operation(web: Web) -> None:
            DeletedJobs(web.store.table).delete(web.store.job(job.job_id))
            self.deleted[job.job_id] = True

        self.deleted.setdefault(job.job_id, False)
        self._operate(operation)

    def redrive(self, number: int, *, times: int) -> None:
        """Ask so many times at once for the image of a dead letter again."""
        letters = self.dead_letters()
        if not letters:
            return
        ref = letters[number % len(letters)]

        def operation(web: Web) -> None:
            self.retries[ref] += 1
            if redrive(web.intake, ref) == "sent":
                self.redriven[ref] += 1
                self.touched[ref.job_id] = self.world.scheduler.now

        for _ in range(times):
            self._operate(operation)

    def redrive_all(self) -> None:
        """Ask for the images of all dead letters again."""

        def operation(web: Web) -> None:
            self.retries.update(self.recorded())
            redrive_all(web.intake)

        self._operate(operation)

    def discard(self, number: int) -> None:
        """Discard a dead letter."""
        letters = self.dead_letters()
        if not letters:
            return
        ref = letters[number % len(letters)]

        def operation(web: Web) -> None:
            try:
                web.letters.discard(ref)
            finally:
                self.discarded[ref] = self._recorded().get(ref, 0)

        self._operate(operation)

    def recorded(self, job: Job | None = None) -> list[ImageRef]:
        """Return the images that the table has, or those of a job, also those of which no client knows."""
        return [ref for ref in self._recorded() if job is None or ref.job_id == job.job_id]

    def _recorded(self) -> dict[ImageRef, int]:
        """Return the attempt of each image that the table has."""
        items = (item for (_, sk), item in self.world.table.items.items() if sk.startswith(PACK))
        return {image.ref: image.attempt for item in items for image in images_in(item).values()}

    def dead_letters(self) -> list[ImageRef]:
        """Return the images that an operator sees as dead letters, read in small pages."""
        store, found, before = DeadLetterStore(JobStore(self.world.table)), list[ImageRef](), None
        while True:
            page = store.page(before, limit=2)
            found += [letter.record.ref for letter in page.letters]
            if (before := page.next_before) is None:
                return found

    def _operate(self, operation: Callable[[Web], None]) -> None:
        """Let a web process do something for a client, up to four times until it answers."""

        def run() -> None:
            for _ in range(4):
                try:
                    operation(web)
                except (*CLOUD_ERRORS, FleetsightError):
                    self.world.scheduler.sleep(1.0)
                else:
                    return

        web = self.world.random.choice(self.world.web_processes)
        self.world.scheduler.spawn(web.process, "operation", run)

    def _file(self, job: Job, content: Content, index: int) -> File:
        file = File(job.job_id, f"{self.operations}-{index}.png", content)
        self.files[file.name] = file
        return file

    def _send(self, web: Web, job: Job, files: Sequence[File], _key: str) -> None:
        if files[0].sent:
            return  # a client without an answer may send again only under a key
        for file in files:
            file.sent = True
        self._answered(files, web.intake.ingest(job, self._uploads(files), self._quota(web, job), self._so_far()))

    def _so_far(self) -> int:
        """Return how many images a job has had: packs are small, or of as many images as they may have."""
        return self.world.random.choice((0, 400)) if self.so_far is None else self.so_far

    def _send_once(self, web: Web, job: Job, files: Sequence[File], key: str) -> None:
        quota = self._quota(web, job)
        self._answered(files, ingest_idempotent(web.intake, job, key, self._uploads(files), quota, self._so_far()))

    def _send_directly(self, web: Web, job: Job, files: Sequence[File], key: str) -> None:
        wanted = [FileSpec(file.name, len(picture(*file.content)), "image/png") for file in files]
        offer, _ = web.direct.offer(job, wanted, key, self._quota(web, job), self._so_far())
        assert offer is not None
        for form, images in offer.packs:
            taken = [files[index] for index in images]
            self.forms.append((taken, form, self.world.scheduler.now + FORM_SECONDS))
            self._use_form(form, [file.content for file in taken])
        found = web.direct.commit(job, offer.upload_id)
        self._answered(files, [found[index] for index in range(len(files))])

    def _send_alone(self, web: Web, _job: Job, files: Sequence[File], _key: str) -> None:
        for file, upload in zip(files, self._uploads(files), strict=True):
            if file.sent:
                continue
            file.sent = True
            outcome = (web.single.ingest_one("", [upload]) or [None])[0]
            if isinstance(outcome, ImageRecord):
                file.job_id = outcome.ref.job_id
                if file.job_id not in self.touched:
                    self.jobs.append(web.single._open[""].job)
                    self.touched[file.job_id] = self.world.scheduler.now
                self._answered([file], [outcome])

    def _quota(self, web: Web, job: Job) -> QuotaScope:
        return QuotaScope(web.quotas, self.callers[job.job_id]) if job.job_id in self.callers else UNLIMITED

    def _use_form(self, form: UploadForm, contents: Sequence[Content]) -> None:
        tags = {name: value for name, value in form.fields.items() if name in UNKEPT}
        body = pack_object((("png", picture(*content)) for content in contents), len(contents))
        self.world.inputs.put(form.fields["key"], bytes(body), form.fields["Content-Type"], tags)

    def use_form_again(self, number: int, content: Content | None) -> None:
        """Send images again by the form by which they were accepted, or another one, while the form is valid."""
        now = self.world.scheduler.now
        valid = [(files, form) for files, form, until in self.forms if files[0].acknowledged and now < until]
        if valid:
            files, form = valid[number % len(valid)]
            self._use_form(form, [content or file.content for file in files])

    def _uploads(self, files: Sequence[File]) -> list[Upload]:
        return [Upload(file.name, data := picture(*file.content), len(data)) for file in files]

    def _answered(self, files: Sequence[File], outcomes: Sequence[UploadResult]) -> None:
        for file, outcome in zip(files, outcomes, strict=True):
            file.rejected = isinstance(outcome, RejectedUpload) and outcome.message != UNCERTAIN
            if isinstance(outcome, ImageRecord):
                self.world.checks.check_accepted(file, outcome.ref)
                file.acknowledged = outcome.ref
                # A repeat is acknowledged late, and makes the job no younger.
                added = (ULID.from_str(outcome.ref.image_id).datetime - EPOCH).total_seconds()
                added = min(added, self.world.scheduler.now)  # by the clock of a process, which may be wrong
                self.touched[file.job_id] = max(self.touched[file.job_id], added)
