"""Everything at one moment: services, processes, and what clients know; and what must hold in the end."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from ulid import ULID

from core import ids
from core.ids import ImageRef, cancelled_key, new_id, new_job_id, output_key
from core.jobs.dead_letters import DeadLetterStore, is_given_up
from core.jobs.listings import ListingStore
from core.jobs.models import ImageRecord, Job, Resend
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Prediction, is_cancelled
from services.errors import FleetsightError
from tests.simulation.data_path.faults import Faults
from tests.simulation.data_path.processes import (
    MAX_RECEIVE_COUNT,
    SOURCE,
    UNKEPT_LIFETIME,
    Controller,
    Kind,
    Web,
    Worker,
    label_of,
    picture,
)
from tests.simulation.data_path.scheduler import Process, Scheduler
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket, MemorySource
from tests.support.memory_aws.sqs import MemorySQS
from web_tier.controller.cleanup import EXPIRY_SECONDS, LINGER_SECONDS
from web_tier.results.query import ImageResult, all_results
from web_tier.uploads.cancellation import cancel_job
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.ingest import CLOUD_ERRORS, UNCERTAIN, RejectedUpload, UploadResult
from web_tier.uploads.multipart import Upload
from web_tier.uploads.presigned import FileSpec
from web_tier.uploads.retry import redrive, redrive_all, retry_failed

EPOCH: Final = datetime(2026, 3, 1, tzinfo=UTC)
WORKERS: Final = 2
SETTLE_STRIDES: Final = (*[10.0] * 60, *[300.0] * 40)
"""Seconds that pass, round by round, once every fault is over: ten minutes in small steps, then three hours."""
WEB_TIMEOUT_SECONDS: Final = 30.0
"""For so long may a web process stand still; as `timeout` in `web_tier/gunicorn.py`."""
MAX_SKEW_SECONDS: Final = 600.0
MAX_MESSAGES: Final = 3
"""Request messages of one image, besides its retries."""

MIN_LOST_DELIVERIES: Final = MAX_RECEIVE_COUNT - 1
"""An innocent image may fail only if so many of its deliveries were lost, with their workers or on their way."""

MIN_DEATHS: Final = 2
"""An image that ends its worker may fail only if it did so this often."""

Content = tuple[int, Kind]


class BrokenError(AssertionError):
    """Raised when something happened that must never happen."""


@dataclass
class File:
    """What a client knows of one file that it sent.

    Attributes:
        acknowledged: its image, once the system said that it is accepted.
        rejected: whether the system said that it is not accepted, not only that it may have been stored.
        sent: whether it was sent once, perhaps without an answer.
    """

    job_id: str
    name: str
    content: Content
    acknowledged: ImageRef | None = None
    rejected: bool = False
    sent: bool = False


class VirtualIds:
    """Makes ids by the virtual clock, in order."""

    def __init__(self, now: Callable[[], datetime], random: Random) -> None:
        self._now, self._random, self._last = now, random, 0

    def next(self) -> ULID:
        """Return the next id."""
        milliseconds = int(self._now().timestamp() * 1000)
        fresh = int.from_bytes(milliseconds.to_bytes(6, "big") + self._random.randbytes(10), "big")
        self._last = fresh if fresh >> 80 > self._last >> 80 else self._last + 1
        return ULID.from_int(self._last)


class World:
    """The whole system and its clients.

    Args:
        fifo: whether the queues are FIFO queues.
        seed: of all that is random.

    Attributes:
        deleted: the jobs that a client has deleted; False as long as it does not know whether it has.
        cancelled: the jobs that a client has asked to cancel.
    """

    def __init__(self, seed: int, *, fifo: bool) -> None:
        self.random = Random(seed)
        self.scheduler = Scheduler(Random(seed + 1))
        self.faults = Faults(self.scheduler, Random(seed + 2), self.kill, self.freeze, self._note_lost_reply)
        self.table = MemoryTable(self.faults.hook("table"), self.faults.leave, self.scheduler.sleep)
        self.inputs = MemoryBucket(self.faults.hook("inputs"), leave=self.faults.leave)
        self.outputs = MemoryBucket(self.faults.hook("outputs"), leave=self.faults.leave)
        self.sources = MemorySource(self.faults.hook("sources"))
        clock, random = self.scheduler.clock, Random(seed + 3)
        leave = self.faults.leave
        self.dead_letters = MemorySQS(clock, fifo, random, self.faults.hook("dead_letters"), leave=leave)
        self.requests = MemorySQS(
            clock, fifo, random, self._call_requests, self.dead_letters, MAX_RECEIVE_COUNT, leave=leave
        )
        self.responses = MemorySQS(clock, fifo, random, self.faults.hook("responses"), leave=leave)
        self.model, self.has_room, self.paused, self.has_consumer = "model-a", False, False, True
        self.web_skew_seconds = self.controller_skew_seconds = 0.0
        self.files: dict[str, File] = {}
        self.jobs: list[Job] = []
        self.imported: list[Job] = []
        self.deleted: dict[str, bool] = {}
        self.cancelled: set[str] = set()
        self.touched: dict[str, float] = {}
        self.retries: Counter[ImageRef] = Counter()
        self.redriven: Counter[ImageRef] = Counter()
        self.discarded: dict[ImageRef, int] = {}
        self.deaths: Counter[str] = Counter()
        self.given_back: Counter[str] = Counter()
        self.resent: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.used_as_it_expires: Counter[str] = Counter()
        self.done_labels: dict[ImageRef, str] = {}
        self.holder: Process | None = None
        self.workers: dict[Process, Worker] = {}
        self.web_processes: list[Web] = []
        self.frozen: dict[Process, float] = {}
        self.started: Counter[str] = Counter()
        self.operations = self.kills = 0
        ids._ids = VirtualIds(self.now, Random(seed + 4))  # type: ignore[assignment]
        self._fill()

    def _call_requests(self, operation: str, effect: Callable[[], Any]) -> Any:
        """Make a call of the request queue; count by their body what controllers send again and workers give back."""
        process = self.scheduler.process
        counts = {"controller": self.resent, "worker": self.given_back}
        count = counts.get(process.kind) if process is not None and operation == "send" else None
        if count is None:
            return self.faults.hook("requests")(operation, effect)

        def counted() -> Any:
            before = self.requests.sent.copy()
            result = effect()
            sent = self.requests.sent - before
            count.update(sent)
            if count is self.resent and process is not self.holder:
                self.late.update(sent)
            return result

        return self.faults.hook("requests")(operation, counted)

    def now(self) -> datetime:
        """Return the true time of day."""
        return EPOCH + timedelta(seconds=self.scheduler.now)

    # What clients do

    def new_job(self, *, keep: bool) -> None:
        """Make a job."""
        job_id = new_job_id(spread=len(self.jobs) % 2 == 0)
        job = Job(job_id, f"job {len(self.jobs)}", self.now(), keep)
        JobStore(self.table).create(job)
        self.jobs.append(job)
        self.touched[job.job_id] = self.scheduler.now

    def import_job(self, contents: Sequence[Content], *, keep: bool) -> None:
        """Make a job of objects in a bucket; they stay there until the end."""
        self.operations += 1
        folder = f"folder-{self.operations}"
        job = Job(new_id(), folder, self.now(), keep, source=f"s3://{SOURCE}/{folder}")
        ListingStore(JobStore(self.table)).create_job(job, "", self.now())
        self.jobs.append(job)
        self.imported.append(job)
        self.touched[job.job_id] = self.scheduler.now
        for index, content in enumerate(contents):
            file = self._file(job, content, index)
            self.sources.objects[SOURCE, f"{folder}/{file.name}"] = picture(*content)

    def change_source(self) -> None:
        """Put another object before all those that the last job is made of."""
        if self.imported:
            job = self.imported[-1]
            self.operations += 1
            name = f"{self.operations}.png"
            file = self.files[name] = File(job.job_id, name, (1, "good"))
            self.sources.objects[SOURCE, f"{job.name}/!/{file.name}"] = picture(*file.content)

    def existing_jobs(self) -> set[str]:
        """Return the ids of the jobs that exist."""
        return JobStore(self.table).existing({job.job_id for job in self.jobs})

    def upload(self, job: Job, contents: Sequence[Content], how: str) -> None:
        """Send files: plainly, under an idempotency key that is repeated until it is answered, or directly."""
        self.operations += 1
        files = [self._file(job, content, index) for index, content in enumerate(contents)]
        send = {"plain": self._send, "keyed": self._send_once, "direct": self._send_directly}[how]
        key = f"key-{self.operations}"

        def operation(web: Web) -> None:
            web.store.job(job.job_id)  # as the route does
            if job.source or web.store.cancelled_jobs([job.job_id]):
                return
            send(web, job, files, key)

        self._operate(operation)

    def retry(self, job: Job) -> None:
        """Ask for the failed images of a job again."""

        def operation(web: Web) -> None:
            self.retries.update(ref for ref in self._recorded() if ref.job_id == job.job_id)
            web.store.job(job.job_id)
            if retry_failed(web.intake, job).sent:
                self.touched[job.job_id] = self.scheduler.now

        self._operate(operation)

    def cancel(self, job: Job) -> None:
        """Cancel a job; images without a result fail."""

        def operation(web: Web) -> None:
            cancel_job(web.intake, web.store.status(job.job_id))

        self.cancelled.add(job.job_id)
        self._operate(operation)

    def delete(self, job: Job) -> None:
        """Delete a job; it is gone once that is acknowledged, and unknown before."""

        def operation(web: Web) -> None:
            web.store.delete(job)
            self.deleted[job.job_id] = True

        self.deleted.setdefault(job.job_id, False)
        self._operate(operation)

    def redrive(self, number: int, *, times: int) -> None:
        """Ask so many times at once for the image of a dead letter again."""
        letters = self._dead_letters()
        if not letters:
            return
        ref = letters[number % len(letters)]

        def operation(web: Web) -> None:
            self.retries[ref] += 1
            if redrive(web.intake, web.letters, ref) == "sent":
                self.redriven[ref] += 1
                self.touched[ref.job_id] = self.scheduler.now

        for _ in range(times):
            self._operate(operation)

    def redrive_all(self) -> None:
        """Ask for the images of all dead letters again."""

        def operation(web: Web) -> None:
            self.retries.update(self._recorded())
            redrive_all(web.intake, web.letters)

        self._operate(operation)

    def discard(self, number: int) -> None:
        """Discard a dead letter."""
        letters = self._dead_letters()
        if not letters:
            return
        ref = letters[number % len(letters)]

        def operation(web: Web) -> None:
            try:
                web.letters.discard(ref)
            finally:
                item = self.table.items.get((f"JOB#{ref.job_id}", f"IMAGE#{ref.image_id}"), {})
                self.discarded[ref] = int(item.get("attempt", 0))

        self._operate(operation)

    def _recorded(self) -> list[ImageRef]:
        """Return the images that the table has, those among them of which no client knows."""
        keys = [(pk.removeprefix("JOB#"), sk.removeprefix("IMAGE#")) for pk, sk in self.table.items if "IMAGE#" in sk]
        return [ImageRef(job_id, image_id) for job_id, image_id in keys]

    def _dead_letters(self) -> list[ImageRef]:
        """Return the images that an operator sees as dead letters, read in small pages."""
        store, found, before = DeadLetterStore(JobStore(self.table)), list[ImageRef](), None
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
                    self.scheduler.sleep(1.0)
                else:
                    return

        web = self.random.choice(self.web_processes)
        self.scheduler.spawn(web.process, "operation", run)

    def _file(self, job: Job, content: Content, index: int) -> File:
        file = File(job.job_id, f"{self.operations}-{index}.png", content)
        self.files[file.name] = file
        return file

    def _send(self, web: Web, job: Job, files: Sequence[File], _key: str) -> None:
        if files[0].sent:
            return  # a client without an answer may send again only under a key
        for file in files:
            file.sent = True
        self._answered(files, web.intake.ingest(job, self._uploads(files)))

    def _send_once(self, web: Web, job: Job, files: Sequence[File], key: str) -> None:
        self._answered(files, ingest_idempotent(web.intake, job, key, self._uploads(files)))

    def _send_directly(self, web: Web, job: Job, files: Sequence[File], key: str) -> None:
        wanted = [FileSpec(file.name, len(picture(*file.content)), "image/png") for file in files]
        offer, _ = web.direct.offer(job, wanted, key)
        assert offer is not None
        for index, form in offer.forms.items():
            self.inputs.put(form.fields["key"], picture(*files[index].content), "image/png")
        found = web.direct.commit(job, offer.upload_id)
        self._answered(files, [found[index] for index in range(len(files))])

    def _uploads(self, files: Sequence[File]) -> list[Upload]:
        return [Upload(file.name, data := picture(*file.content), len(data)) for file in files]

    def _answered(self, files: Sequence[File], outcomes: Sequence[UploadResult]) -> None:
        for file, outcome in zip(files, outcomes, strict=True):
            file.rejected = isinstance(outcome, RejectedUpload) and outcome.message != UNCERTAIN
            if isinstance(outcome, ImageRecord):
                file.acknowledged = outcome.ref
                # A repeat is acknowledged late, and makes the job no younger.
                added = (ULID.from_str(outcome.ref.image_id).datetime - EPOCH).total_seconds()
                self.touched[file.job_id] = max(self.touched[file.job_id], added)

    # What happens to processes

    def kill(self, process: Process) -> None:
        """End a process, as kill -9 does."""
        self.kills += 1
        if (worker := self.workers.pop(process, None)) is not None:
            self.deaths.update(each.request.image_id for each in worker.in_flight.everything())
        if process is self.holder:
            self.holder = None
        self.web_processes = [web for web in self.web_processes if web.process is not process]
        self.scheduler.kill(process)

    def _note_lost_reply(self, call: str, result: Any) -> None:
        """Count a receive of each message in a reply that was lost."""
        if call == "requests.receive":
            bodies = [json.loads(message["Body"]) for message in result.get("Messages", [])]
            self.deaths.update(str(body["image_id"]) for body in bodies)

    def freeze(self, process: Process) -> None:
        """Stop a process, as SIGSTOP does; another takes its place."""
        if (worker := self.workers.get(process)) is not None:
            self.deaths.update(each.request.image_id for each in worker.in_flight.everything())
        process.frozen = True
        self.frozen[process] = self.scheduler.now
        if process is self.holder:
            self.holder = None
        self.web_processes = [web for web in self.web_processes if web.process is not process]

    def thaw(self) -> None:
        """Resume the frozen processes."""
        for process, since in self.frozen.items():
            process.frozen = False
            process.was_away |= self.scheduler.now - since >= LINGER_SECONDS
        self.frozen.clear()

    def worker_ended(self, process: Process) -> None:
        """Know that a worker ended in good order."""
        self.workers.pop(process, None)

    def processes(self, kind: str) -> list[Process]:
        """Return the processes of a kind that are at work."""
        found = {
            "web": [web.process for web in self.web_processes],
            "worker": [process for process in self.workers if not process.frozen],
            "controller": [self.holder] if self.holder else [],
        }
        return found[kind]

    def pause(self, *, on: bool) -> None:
        """Pause the fleet: workers end in good order, and none begins."""
        self.paused = on
        for worker in self.workers.values() if on else ():
            worker.lifetime.end("paused")

    def run_without_consumer(self, seconds: float, rounds: int) -> None:
        """Kill the controller, and let time pass before another one begins."""
        for process in self.processes("controller"):
            self.kill(process)
        self.has_consumer = False
        self.run(seconds, rounds)
        self.has_consumer = True

    def delete_response_queue(self, seconds: float) -> None:
        """Delete the response queue with its messages; it is made again after so many seconds."""
        self.responses.purge()
        self.faults.missing["responses"] = self.scheduler.now + seconds

    # Time

    def run_until_expiry(self, job: Job, use: Callable[[], None]) -> None:
        """Let a client use a job in the round in which the controller checks whether it has expired."""
        store = JobStore(self.table)
        if job.keep or not store.existing([job.job_id]):
            return
        status = store.status_of(job)
        used = (job.created_at, status.counts.last_at, status.retried_at)
        end = max(moment for moment in used if moment is not None) + UNKEPT_LIFETIME
        now = self.now() + timedelta(seconds=self.controller_skew_seconds)
        # It checks now and finds that the job has some seconds left; the next time is the one that counts.
        self.run(max(1.0, (end - now).total_seconds() - 5), 4)
        is_due = bool(store.existing([job.job_id])) and not store.is_open(job.job_id)
        use()
        self.run(EXPIRY_SECONDS, 1)
        if is_due:
            self.used_as_it_expires["kept" if store.existing([job.job_id]) else "expired"] += 1

    def run(self, seconds: float, rounds: int) -> None:
        """Let time pass, in so many rounds in which every process has its turn."""
        for _ in range(rounds):
            self.scheduler.now += seconds / rounds
            self._fill()
            self.scheduler.round()
            self._check_visible()

    def _fill(self) -> None:
        """Start the processes that there should be; gunicorn kills a web process that stands still."""
        for process, since in list(self.frozen.items()):
            if process.kind == "web" and self.scheduler.now - since > WEB_TIMEOUT_SECONDS:
                del self.frozen[process]
                self.kill(process)
        while len(self.web_processes) < 2:
            self.web_processes.append(Web(self, self._process("web")))
        if self.holder is None and self.has_consumer:
            self.holder = self._process("controller")
            Controller(self, self.holder, self.started["controller"])
        while len(self.processes("worker")) < WORKERS and not self.paused:
            process = self._process("worker")
            self.workers[process] = Worker(self, process)

    def _process(self, kind: str) -> Process:
        self.started[kind] += 1
        return Process(f"{kind} {self.started[kind]}", kind)

    # What must hold

    def settle(self) -> None:
        """End every fault, let the system finish, and check what must hold then."""
        self.faults.share = 0.0
        self.faults.outages.clear()
        self.faults.missing.clear()
        self.faults.armed.clear()
        self.web_skew_seconds = self.controller_skew_seconds = 0.0
        for queue in (self.requests, self.responses, self.dead_letters):
            queue.habits = type(queue.habits)()
        self.thaw()
        self.pause(on=False)
        for worker in self.workers.values():
            worker.is_broken = False
        for seconds in SETTLE_STRIDES:
            self.run(seconds, 1)
            if self._is_settled():
                break
        self._check()

    def _is_settled(self) -> bool:
        store = JobStore(self.table)
        return not (store.open_jobs() or store.deleted_jobs()) and not any(
            queue.counts().visible + queue.counts().in_flight
            for queue in (self.requests, self.responses, self.dead_letters)
        )

    def _check_visible(self) -> None:
        """A label that was visible stays, and stays the same."""
        for file in self.files.values():
            ref = file.acknowledged
            if ref is None or ref.job_id in self.deleted:
                continue
            item = self.table.items.get((f"JOB#{ref.job_id}", f"RESULT#{ref.image_id}"))
            before = self.done_labels.get(ref)
            if item is not None and item["status"] == "done":
                self.done_labels[ref] = label = str(json.loads(str(item["response"]))["label"])
                if before not in {None, label}:
                    raise BrokenError(f"the label of {file.name} changed from {before} to {label}")
            elif before is not None and not self._may_have_expired(ref.job_id):
                raise BrokenError(f"the label of {file.name} disappeared")

    def _may_have_expired(self, job_id: str) -> bool:
        # The times that the controller compares are of its own clock, or of the web tier's.
        return self.scheduler.now - self.touched[job_id] >= UNKEPT_LIFETIME.total_seconds() - 2 * MAX_SKEW_SECONDS

    def _check(self) -> None:
        store = JobStore(self.table)
        opened = {job.job_id for job in store.open_jobs()}
        for job in self.jobs:
            expired = self._may_have_expired(job.job_id)
            is_there = ("JOBS", job.job_id) in self.table.items
            if self.deleted.get(job.job_id) or (job.job_id in self.deleted and not is_there):
                self._check_gone(job)
            elif is_there:
                self._check_job(store, job, is_open=job.job_id in opened)
            elif not expired and any(file.acknowledged and file.job_id == job.job_id for file in self.files.values()):
                raise BrokenError(f"{job.name} expired although images were added lately")
            else:
                self._check_gone(job)
        self._check_queues()

    def _check_gone(self, job: Job) -> None:
        held = [key for key in self.table.items if job.job_id in key[0] or job.job_id in key[1]]
        keys = [*self.inputs.objects, *self.outputs.objects]
        objects = [key for key in keys if key.startswith(job.job_id)]
        if held or objects:
            raise BrokenError(f"left of a deleted job: {held[:3]} {objects[:3]}")

    def _check_job(self, store: JobStore, job: Job, *, is_open: bool) -> None:
        results, letters = {item.record.ref: item for item in all_results(store, job.job_id)}, self._dead_letters()
        names = Counter(item.record.filename.removeprefix("!/") for item in results.values())
        for file in self.files.values():
            if file.job_id != job.job_id:
                continue
            if names[file.name] > 1:
                raise BrokenError(f"doubled: {file.name} is {names[file.name]} images")
            if file.rejected and names[file.name]:
                raise BrokenError(f"unexpected: {file.name} was rejected and is there")
            if file.acknowledged is not None and file.acknowledged not in results:
                raise BrokenError(f"lost: {file.name} was accepted and is not there")
        for ref, item in results.items():
            name = item.record.filename.removeprefix("!/")
            if item.response is None:
                raise BrokenError(f"{name} has no result")
            if item.retrying:
                raise BrokenError(f"{name} is retrying for ever")
            self._check_result(self.files[name], item.response)
            self._check_messages(ref, name)
            self._check_dead_letter(ref, item, letters.count(ref))
            self._check_resend(ref, name, item.resend)
        self._check_status(store, job, results)
        self._check_merged(store, job, results)
        self._check_source(store, job, results)
        self._check_tombstone(store, job)
        if is_open:
            raise BrokenError(f"{job.name} is open for ever")

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
        keys = [key.split("/") for _, key in self.sources.objects]
        first = {parts[1] for parts in keys if parts[0] == job.name and len(parts) == 2}
        if listing.state == "complete" and first - names:
            raise BrokenError(f"{job.name}: not imported: {first - names}")
        if listing.state != "complete" and job.job_id not in self.cancelled:
            raise BrokenError(f"{job.name}: the listing is {listing.state}: {listing.error}")

    def _check_tombstone(self, store: JobStore, job: Job) -> None:
        """Workers take no job for cancelled that is not."""
        if cancelled_key(job.job_id) in self.inputs.objects and not store.cancelled_jobs([job.job_id]):
            raise BrokenError(f"{job.name} has a tombstone and is not cancelled")

    def _check_result(self, file: File, response: ClassificationResult) -> None:
        index, kind = file.content
        if response.status == "done" and (kind == "broken" or response.label != label_of(index)):
            raise BrokenError(f"wrong: {file.name} ({kind} {index}) is {response.label}")
        if response.status == "failed":
            code = response.error.code if response.error else ""
            deaths = self.deaths[response.image_id]
            least = MIN_DEATHS if kind == "heavy" else MIN_LOST_DELIVERIES
            is_justified = (
                (code == "crashed_worker" and deaths >= least)
                or (code, kind) == ("undecodable", "broken")
                or (code == "cancelled" and response.job_id in self.cancelled)
            )
            if not is_justified:
                raise BrokenError(f"innocent: {file.name} ({kind}) failed with {code} after {deaths} deaths")
        self._check_object(file, response)

    def _check_object(self, file: File, response: ClassificationResult) -> None:
        """The table's result and the prediction object are of one attempt, one label and one model."""
        body = self.outputs.objects.get(response.source or output_key(response.ref))
        if body is None:
            if response.source is None:
                raise BrokenError(f"{file.name} is {response.status} and has no prediction object")
            return
        stored = Prediction.from_json(body)
        if (stored.status, stored.label, stored.model) != (response.status, response.label, response.model):
            raise BrokenError(
                f"{file.name}: the table says {response.status} by {response.model}, "
                f"the bucket {stored.status} by {stored.model}"
            )

    def _check_dead_letter(self, ref: ImageRef, item: ImageResult, letters: int) -> None:
        """An image that was given up has a dead letter unless it was discarded; each redrive raised the attempt."""
        name, response = item.record.filename, item.response
        if self.redriven[ref] > item.record.attempt:
            raise BrokenError(f"{name} was redriven {self.redriven[ref]} times in {item.record.attempt} retries")
        assert response is not None
        is_discarded = self.discarded.get(ref, -1) >= response.attempt
        if letters != is_given_up(response) and not is_discarded:
            raise BrokenError(f"{name} has {letters} dead letters, and its result is {response.error}")

    def _check_resend(self, ref: ImageRef, name: str, resend: Resend | None) -> None:
        """Pages claim no more resends than there were."""
        sent = sum(count for body, count in self.resent.items() if ref.image_id in body)
        if resend is not None and resend.times > sent:
            raise BrokenError(f"{name} says that it was requested again {resend.times} times, it was {sent} times")

    def _check_messages(self, ref: ImageRef, name: str) -> None:
        """Not counted: a message that a worker gives back, and one that a frozen controller sends late."""
        more = self.requests.sent - self.given_back - self.late
        sent = sum(count for body, count in more.items() if ref.image_id in body)
        allowed = MAX_MESSAGES + self.retries[ref]
        if sent > allowed:
            raise BrokenError(f"{name}: {sent} request messages, {allowed} allowed")

    def _check_status(self, store: JobStore, job: Job, results: dict[ImageRef, Any]) -> None:
        status = store.status(job.job_id)
        counted = Counter(item.response.status for item in results.values())
        cancelled = sum(is_cancelled(item.response) for item in results.values())
        seen = (status.accepted, status.counts.done, status.counts.failed, status.counts.cancelled)
        if seen != (len(results), counted["done"], counted["failed"], cancelled):
            raise BrokenError(f"{job.name} says {seen}, its images {len(results)} {dict(counted)}")
        sent = sum(count for body, count in self.resent.items() if job.job_id in body)
        if status.counts.resends > sent:
            raise BrokenError(f"{job.name} counts {status.counts.resends} resends, it had {sent}")

    def _check_merged(self, store: JobStore, job: Job, results: dict[ImageRef, ImageResult]) -> None:
        """A file that is said to hold all results holds them."""
        status = store.status(job.job_id)
        if status.merged is None or status.merged.edition != status.edition:
            return
        lines = [json.loads(line) for line in self.outputs.objects[status.merged.key].splitlines()]
        held = {(line["image_id"], line["status"], line["label"]) for line in lines}
        responses = [item.response for item in results.values() if item.response is not None]
        if held != {(response.image_id, response.status, response.label) for response in responses}:
            raise BrokenError(f"{job.name}: the file of its results holds {held}")

    def _check_queues(self) -> None:
        for name in ("requests", "responses", "dead_letters"):
            counts = getattr(self, name).counts()
            if counts.visible or counts.in_flight or counts.delayed:
                raise BrokenError(f"left in {name}: {counts}")
