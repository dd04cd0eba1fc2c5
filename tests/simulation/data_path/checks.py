"""What must hold of the system: at any moment, and when everything has come to rest."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from app_tier.network_process import CHILDREN
from app_tier.pipeline import MAX_TRIES
from core.fleet.store import FleetStore
from core.ids import ImageRef, pack_of, place_of
from core.jobs.buckets import UNKEPT
from core.jobs.items import PACK, RESULT, partition
from core.jobs.keys import cancelled_key, output_key, outputs_key
from core.jobs.lifecycle import Cancellations, OpenJobs
from core.jobs.models import ImageRecord, Job, JobStatus, Resend
from core.jobs.packs import images_in
from core.jobs.results import unpacked_results
from core.jobs.shares import ShareStore
from core.jobs.store import JobStore
from core.messages import (
    SOURCE_UNREADABLE,
    ClassificationResult,
    Prediction,
    RequestMessage,
    is_cancelled,
    is_given_up,
)
from core.s3_locations import S3Location
from services.clock import MAX_ERROR_SECONDS
from services.table import Item
from tests.simulation.data_path.clients import Clients, File
from tests.simulation.data_path.processes import (
    BROKEN_MODEL,
    GONE_MODEL,
    IMAGES_PER_DAY,
    SOURCE,
    UNKEPT_LIFETIME,
    label_of,
    picture,
)
from tests.support.jobs import member
from web_tier.autoscaler.outstanding import OutstandingPacks
from web_tier.features.notifications.notifier import MAX_ATTEMPTS
from web_tier.results.query import ImageResult, all_results, is_final, is_settled

if TYPE_CHECKING:
    from tests.simulation.data_path.world import World

MAX_OVERBILLED_SECONDS: Final = 86_400.0
"""By so much may the meter be wrong besides, in a history with wrong clocks."""

MAX_LISTED: Final = 1_000
MAX_MESSAGES: Final = 3
"""Request messages of one image, besides its retries."""

MAX_POISONED: Final = 2
"""Workers that an image may end which spares the machine, for each of its attempts."""


class BrokenError(AssertionError):
    """Raised when something happened that must never happen."""


@dataclass
class Checks:
    """The promises of a system to its clients.

    Attributes:
        done_labels: the labels that were visible.
        deleted_early: files of images that could still get a label when their objects were deleted.
        published: how often each controller saw that the topic took a message about a finished job, by its id.
        unpublished: how many tries to publish a message about a job have failed, by its id.
        received: done and failed images in the messages that the topic got about a job, by its id.
    """

    world: "World"
    done_labels: dict[ImageRef, str] = field(default_factory=dict)
    deleted_early: list[str] = field(default_factory=list)
    published: Counter[tuple[str, str]] = field(default_factory=Counter)
    unpublished: Counter[str] = field(default_factory=Counter)
    received: defaultdict[str, set[tuple[int, int]]] = field(default_factory=lambda: defaultdict(set))

    @property
    def clients(self) -> Clients:
        """The clients."""
        return self.world.clients

    def waiting(self) -> set[ImageRef]:
        """Return the images that have no result of their last attempt."""
        store = JobStore(self.world.table)
        items = [item for job_id in self.clients.existing_jobs() for item in all_results(store, job_id)]
        return {item.record.ref for item in items if item.response is None or item.retrying}

    def receive(self, data: Mapping[str, Any]) -> None:
        """Receive a message about a job that is done."""
        if data["images"] == data["done"] + data["failed"]:
            self.received[data["job_id"]].add((data["done"], data["failed"]))

    def note_deletion(self) -> None:
        """Note the images that have no object and may still get a label, after objects were deleted.

        It is raised later: the product's loops catch what their calls raise.
        """
        for file in self.clients.files.values():
            if file.acknowledged is not None and self._lacks_object(file.acknowledged):
                self.deleted_early.append(file.name)

    def check_accepted(self, file: File, ref: ImageRef) -> None:
        """A reply names an image that is recorded and stored, and the same one as any earlier reply for the file."""
        if file.acknowledged not in {None, ref}:
            raise BrokenError(f"{file.name} was {file.acknowledged}, and is {ref}")
        is_there = ref.job_id not in self.clients.deleted and not self._may_have_expired(ref.job_id)
        if is_there and self._image(ref) is None:
            raise BrokenError(f"{file.name} is accepted and not recorded")
        if self._lacks_object(ref):
            raise BrokenError(f"{file.name} is accepted and not stored")

    def _image(self, ref: ImageRef) -> ImageRecord | None:
        pack = self._item(ref, PACK)
        return None if pack is None else images_in(pack).get(ref.image_id)

    def _lacks_object(self, ref: ImageRef) -> bool:
        """Return whether an image has no object and may still get a label."""
        if ref.job_id in self.clients.deleted or self._may_have_expired(ref.job_id):
            return False
        image, result = self._image(ref), self._result(ref)
        if image is None or image.key in self.world.inputs.objects:
            return False
        # With a pack an image goes that has failed for good, too.
        return result is None or not (result.status == "done" or (is_final(result) and not image.is_lone))

    def _item(self, ref: ImageRef, kind: str) -> Item | None:
        return self.world.table.items.get((partition(ref.job_id), f"{kind}{pack_of(ref.image_id)}"))

    def _result(self, ref: ImageRef) -> ClassificationResult | None:
        item = self._item(ref, RESULT)
        return None if item is None else _results_in(str(item.get("results", ""))).get(ref.image_id)

    def check_visible(self) -> None:
        """A label that was visible stays, and stays the same; no image was deleted that could still get one.

        Without a message no worker is wanted.
        """
        messages = self.world.requests.counts()
        if not messages.total and OutstandingPacks(self.world.table).images_of(messages).total:
            raise BrokenError("workers are wanted without a message")
        if self.deleted_early:
            raise BrokenError(f"{self.deleted_early} were deleted before their labels were stored")
        for file in self.clients.files.values():
            ref = file.acknowledged
            if ref is None or ref.job_id in self.clients.deleted:
                continue
            result = self._result(ref)
            before = self.done_labels.get(ref)
            if result is not None and result.status == "done":
                self.done_labels[ref] = label = str(result.label)
                if before not in {None, label}:
                    raise BrokenError(f"the label of {file.name} changed from {before} to {label}")
            elif before is not None and not self._may_have_expired(ref.job_id):
                raise BrokenError(f"the label of {file.name} disappeared")

    def _may_have_expired(self, job_id: str) -> bool:
        # The times that the controller compares are of its own clock, or of the web tier's.
        unused = self.world.scheduler.now - self.clients.touched[job_id]
        return unused >= UNKEPT_LIFETIME.total_seconds() - 2 * MAX_ERROR_SECONDS

    def check_bill(self) -> None:
        """A clock that was wrong has changed neither the day of the ledger nor the cost for good."""
        snapshot = FleetStore(self.world.table).snapshot()
        assert snapshot is not None
        day = snapshot.today.day if snapshot.today else None
        if day != self.world.now().date():
            raise BrokenError(f"the day of the ledger is {day}, it is {self.world.now().date()}")
        ran = self.world.billed_seconds + self.world.unseen_seconds
        if snapshot.billed_seconds > ran + MAX_OVERBILLED_SECONDS:
            raise BrokenError(f"{snapshot.billed_seconds} s are billed, workers ran {ran} s")
        if snapshot.is_capped:
            raise BrokenError(f"nothing is launched: {snapshot.spending}")

    def check_agreement(self) -> None:
        """A job without images in work is the same for all who read it, in its results file, and in the copy."""
        store = JobStore(self.world.table)
        for job in self.clients.jobs:
            if not store.existing([job.job_id]):
                if job.job_id in {each.job_id for each in store.jobs(MAX_LISTED, owner=job.owner)}:
                    raise BrokenError(f"{job.name} does not exist, and is in its user's list")
                continue
            self._check_lists(store, job)
            is_cancelling = Cancellations(store.table).find([job.job_id]) and OpenJobs(store.table).is_open(
                job.job_id
            )
            if is_cancelling and cancelled_key(job.job_id) not in self.world.inputs.objects:
                raise BrokenError(f"{job.name} is cancelled, and workers cannot know it")
            results = {item.record.ref: item for item in all_results(store, job.job_id)}
            if all(item.response is not None and not item.retrying for item in results.values()):
                status = store.status(job.job_id)
                self._check_status(status, job, results)
                self._check_merged(status, job, results)

    def check_orphans(self) -> None:
        """No object stays in the input bucket without an item, or of a pack that is settled and not kept."""
        store = JobStore(self.world.table)
        for key in self.world.inputs.objects:
            job_id, _, name = key.partition("/")
            ref = ImageRef(job_id, name.partition(".")[0])
            if key == cancelled_key(job_id):
                continue
            if (image := self._image(ref)) is None:
                raise BrokenError(f"no item names {key}")
            job = store.jobs_of([job_id]).get(job_id)  # it may have expired just now
            if job and not job.keep and is_settled(image, store.results_of(image.pack_refs)):
                raise BrokenError(f"{key} is not kept, and stays")

    def check_rest(self) -> None:
        if self.world.poisoned[BROKEN_MODEL]:
            raise BrokenError("a model ended workers")
        store = JobStore(self.world.table)
        opened = {job.job_id for job in OpenJobs(store.table).find_all()}
        for job in self.clients.jobs:
            expired = self._may_have_expired(job.job_id)
            is_there = ("JOBS", job.job_id) in self.world.table.items
            if self.clients.deleted.get(job.job_id) or (job.job_id in self.clients.deleted and not is_there):
                self._check_gone(job)
            elif is_there:
                self._check_job(store, job, is_open=job.job_id in opened)
            elif not expired and any(
                file.acknowledged and file.job_id == job.job_id for file in self.clients.files.values()
            ):
                raise BrokenError(f"{job.name} expired although images were added lately")
            else:
                self._check_gone(job)
        self._check_published()
        self._check_quotas()
        self._check_queues()

    def _check_gone(self, job: Job) -> None:
        held = [key for key in self.world.table.items if job.job_id in key[0] or job.job_id in key[1]]
        # Of a share that began while the job was being deleted: it gives no right, and the table deletes it later.
        held = [(pk, sk) for pk, sk in held if not pk.startswith("SHARED#")]
        stored = (*self.world.inputs.objects, *self.world.outputs.objects)
        objects = [key for key in stored if key.startswith(job.job_id)]
        if held or objects:
            raise BrokenError(f"left of a deleted job: {held[:3]} {objects[:3]}")

    def _check_job(self, store: JobStore, job: Job, *, is_open: bool) -> None:
        results = {item.record.ref: item for item in all_results(store, job.job_id)}
        letters = Counter(self.clients.dead_letters())
        self._check_files(job, results)
        for ref, item in results.items():
            self._check_image(job, item, letters[ref])
        status = store.status(job.job_id)
        self._check_status(status, job, results)
        self._check_lists(store, job)
        self._check_merged(status, job, results)
        self._check_notified(status, job)
        self._check_source(store, job, results)
        self._check_tombstone(store, job)
        if is_open:
            raise BrokenError(f"{job.name} is open for ever")

    def _check_files(self, job: Job, results: dict[ImageRef, ImageResult]) -> None:
        """Each file is at most one image; what was acknowledged is there, and what was rejected is not."""
        names = Counter(item.record.filename.removeprefix("!/") for item in results.values())
        for file in self.clients.files.values():
            if file.job_id != job.job_id:
                continue
            if names[file.name] > 1:
                raise BrokenError(f"doubled: {file.name} is {names[file.name]} images")
            if file.rejected and names[file.name]:
                raise BrokenError(f"unexpected: {file.name} was rejected and is there")
            if file.acknowledged is not None and file.acknowledged not in results:
                raise BrokenError(f"lost: {file.name} was accepted and is not there")

    def _check_image(self, job: Job, item: ImageResult, letters: int) -> None:
        ref, name = item.record.ref, item.record.filename.removeprefix("!/")
        if item.response is None:
            raise BrokenError(f"{name} has no result")
        if item.retrying:
            raise BrokenError(f"{name} is retrying for ever")
        file = self.clients.files[name]
        self._check_result(file, item.record, item.response, "" if job.model is None else job.model.name)
        by = item.response.model
        if job.model and item.response.status == "done" and (by is None or by.digest != job.model.digest):
            raise BrokenError(f"{name} was classified by {by}, its job wants {job.model}")
        if job.keep and file.acknowledged:
            self._check_kept(file, item.record)
        if self.world.poisoned[ref.image_id] > MAX_POISONED * (1 + item.record.attempt):
            raise BrokenError(f"{name} ended {self.world.poisoned[ref.image_id]} workers")
        self._check_messages(ref, name)
        self._check_dead_letter(ref, item, letters)
        self._check_resend(ref, name, item.resend)

    def _check_source(self, store: JobStore, job: Job, results: dict[ImageRef, ImageResult]) -> None:
        """Each object of a source is an image once, unless the listing was cancelled."""
        if not job.source:
            return
        listing = store.status(job.job_id).listing
        if listing is None or listing.state == "listing":
            raise BrokenError(f"{job.name} is listed for ever")
        if listing.accepted != len(results):
            raise BrokenError(f"{job.name}: {listing.accepted} images listed, it has {len(results)}")
        names = {item.record.filename.removeprefix("!/") for item in results.values()}
        keys = [key.split("/") for _, key in self.world.sources.objects]
        first = {parts[1] for parts in keys if parts[0] == job.name and len(parts) == 2}
        first -= {file.name for file in self.clients.files.values() if file.is_troubled}
        if listing.state == "complete" and first - names:
            raise BrokenError(f"{job.name}: not imported: {first - names}")
        if listing.state != "complete" and job.job_id not in self.clients.cancelled:
            raise BrokenError(f"{job.name}: the listing is {listing.state}: {listing.error}")

    def _check_tombstone(self, store: JobStore, job: Job) -> None:
        """Workers take no job for cancelled that is not."""
        is_marked = cancelled_key(job.job_id) in self.world.inputs.objects
        if is_marked and not Cancellations(store.table).find([job.job_id]):
            raise BrokenError(f"{job.name} has a tombstone and is not cancelled")

    def _check_result(self, file: File, image: ImageRecord, response: ClassificationResult, model: str) -> None:
        index, kind = file.content
        is_label = kind not in {"broken", "poison", "hang"} and response.label == label_of(index)
        if response.status == "done" and not is_label and not file.is_troubled:
            raise BrokenError(f"wrong: {file.name} ({kind} {index}) is {response.label}")
        if response.status == "failed":
            code = response.error.code if response.error else ""
            deaths = self.world.deaths[response.image_id]
            is_crash = self.world.children[response.image_id] >= CHILDREN or deaths >= MAX_TRIES
            is_justified = (
                (code == "crashed_worker" and is_crash)
                or (code == "model_gone" and model == GONE_MODEL)
                or (code == "model_failed" and model == BROKEN_MODEL)
                or (code, kind) == ("undecodable", "broken")
                or (code == "cancelled" and response.job_id in self.clients.cancelled)
                or (code == SOURCE_UNREADABLE and file.is_troubled and image.source is not None)
            )
            if not is_justified:
                raise BrokenError(f"innocent: {file.name} ({kind}) failed with {code} after {deaths} deaths")
        self._check_object(file, image, response)

    def _check_kept(self, file: File, image: ImageRecord) -> None:
        """The image of a job that keeps its images is there, and no rule of the bucket removes it later."""
        stored = self.world.inputs.objects.get(image.key, b"")
        if member(image.sizes, stored, place_of(image.ref.image_id)) != picture(*file.content):
            raise BrokenError(f"{file.name} is kept, and its object is gone or another one")
        if self.world.inputs.tags[image.key] == UNKEPT:
            raise BrokenError(f"{file.name} is kept, and the bucket deletes it when it is old")

    def _check_object(self, file: File, image: ImageRecord, response: ClassificationResult) -> None:
        """The table's result and the prediction object are of one attempt, one label and one model."""
        job_id = image.ref.job_id
        key = output_key(image.ref) if image.is_lone else outputs_key(job_id, image.pack_id)
        lines = map(Prediction.from_json, self.world.outputs.objects.get(key, b"").splitlines())
        stored = next((each for each in lines if each.ref == image.ref), None)
        if stored is None:
            raise BrokenError(f"{file.name} is {response.status} and has no prediction")
        if (stored.status, stored.label, stored.model) != (response.status, response.label, response.model):
            raise BrokenError(
                f"{file.name}: the table says {response.status} by {response.model}, "
                f"the bucket {stored.status} by {stored.model}"
            )

    def _check_dead_letter(self, ref: ImageRef, item: ImageResult, letters: int) -> None:
        """An image that was given up has a dead letter unless it was discarded; each redrive raised the attempt."""
        name, response = item.record.filename, item.response
        if self.clients.redriven[ref] > item.record.attempt:
            raise BrokenError(
                f"{name} was redriven {self.clients.redriven[ref]} times in {item.record.attempt} retries"
            )
        assert response is not None
        is_discarded = self.clients.discarded.get(ref, -1) >= response.attempt
        if letters != is_given_up(response) and not is_discarded:
            raise BrokenError(f"{name} has {letters} dead letters, and its result is {response.error}")

    def _check_resend(self, ref: ImageRef, name: str, resend: Resend | None) -> None:
        """Pages claim no more resends than there were."""
        sent = sum(count for body, count in self.world.resent.items() if _requests(body, ref))
        if resend is not None and resend.times > sent:
            raise BrokenError(f"{name} says that it was requested again {resend.times} times, it was {sent} times")

    def _check_messages(self, ref: ImageRef, name: str) -> None:
        """Not counted: a message that a worker gives back, and one that a frozen controller sends late."""
        given_back, late = self.world.given_back, self.world.late
        sent = sum(
            max(0, count - given_back[body] - late[body])
            for body, count in self.world.requests.sent.items()
            if _requests(body, ref)
        )
        allowed = MAX_MESSAGES + self.clients.retries[ref]
        if sent > allowed:
            raise BrokenError(f"{name}: {sent} request messages, {allowed} allowed")

    def _check_lists(self, store: JobStore, job: Job) -> None:
        """The job is the same in the list of its user, and is in that of everyone with whom it is shared."""
        listed, found = store.jobs(MAX_LISTED, owner=job.owner), store.job(job.job_id)
        if found not in listed:
            raise BrokenError(
                f"{found} is {[each for each in listed if each.job_id == job.job_id]} in its user's list"
            )
        if store.truths(job.job_id) and not found.is_reviewed:
            raise BrokenError(f"{job.name} has true labels that no reader finds")
        for share in found.shares:
            if job.job_id not in ShareStore(store.table).shared_with(share.email, MAX_LISTED):
                raise BrokenError(f"{job.name} is shared with {share.email}, who does not find it")

    def _check_status(self, status: JobStatus, job: Job, results: dict[ImageRef, Any]) -> None:
        counted = Counter(item.response.status for item in results.values())
        cancelled = sum(is_cancelled(item.response) for item in results.values())
        seen = (status.accepted, status.counts.done, status.counts.failed, status.counts.cancelled)
        if seen != (len(results), counted["done"], counted["failed"], cancelled):
            raise BrokenError(f"{job.name} says {seen}, its images {len(results)} {dict(counted)}")
        resent = ((count, body) for body, count in self.world.resent.items() if job.job_id in body)
        sent = sum(count * len(RequestMessage.from_json(body).refs) for count, body in resent)
        if status.counts.resends > sent:
            raise BrokenError(f"{job.name} counts {status.counts.resends} resends, it had {sent}")

    def _check_merged(self, status: JobStatus, job: Job, results: dict[ImageRef, ImageResult]) -> None:
        """A file that is said to hold all results holds them, and so does its copy where its client wanted it."""
        if not results or job.is_single:
            return
        if status.merged is None or status.merged.edition != status.edition:
            raise BrokenError(f"{job.name}: its results file is {status.merged}, its results {status.edition}")
        responses = [item.response for item in results.values() if item.response is not None]
        expected = {(response.image_id, response.status, response.label) for response in responses}
        files = [self.world.outputs.objects[status.merged.key]]
        if job.results:
            place = S3Location.parse(job.results)
            is_refused = place.bucket != SOURCE
            if status.copy_state != ("failed" if is_refused else "written"):
                raise BrokenError(f"{job.name}: the copy of its results to {place} is {status.copy}")
            if not is_refused:
                files.append(self.world.sources.objects[SOURCE, f"{place.prefix}{job.job_id}.jsonl"])
        for file in files:
            lines = [json.loads(line) for line in file.splitlines()]
            held = {(line["image_id"], line["status"], line["label"]) for line in lines}
            if held != expected:
                raise BrokenError(f"{job.name}: a file of its results holds {held}; copy: {status.copy}")

    def _check_notified(self, status: JobStatus, job: Job) -> None:
        """The topic got a message once every image had its result, unless the controllers gave it up."""
        is_complete = status.merged is not None and status.merged.edition == status.edition
        last = status.counts.done, status.counts.failed
        if is_complete and last not in self.received[job.job_id] and self.unpublished[job.job_id] < MAX_ATTEMPTS:
            raise BrokenError(f"{job.name}: messages say {self.received[job.job_id]}, its images are {last}")

    def _check_published(self) -> None:
        """No controller repeats a message that the topic has taken."""
        if repeated := [each for each in self.published.items() if each[1] > 1]:
            raise BrokenError(f"published again: {repeated}")

    def _check_quotas(self) -> None:
        """No client got more images accepted on a day than its quota."""
        charged = [(pk, int(item["images"])) for (pk, _), item in self.world.table.items.items() if "QUOTA#" in pk]
        if too_many := [each for each in charged if each[1] > IMAGES_PER_DAY]:
            raise BrokenError(f"charged on a day: {too_many}")

    def _check_queues(self) -> None:
        for name in ("requests", "responses", "dead_letters"):
            counts = getattr(self.world, name).counts()
            if counts.visible or counts.in_flight or counts.delayed:
                raise BrokenError(f"left in {name}: {counts}")


@lru_cache(4_096)
def _results_in(results: str) -> dict[str, ClassificationResult]:
    """Return results of the job table by image id, which are read in every round."""
    return {each.image_id: each for each in unpacked_results(results)} if results else {}


def _requests(body: str, ref: ImageRef) -> bool:
    """Return whether a message requests an image."""
    return pack_of(ref.image_id) in body and ref in RequestMessage.from_json(body).refs
