"""The cost of images: their share of the fleet's bill, and the requests to AWS services that they cause.

**Instances.** The images that workers answered in a billing period of the fleet (`core.fleet.models.BillingPeriod`)
share its cost. So a job that has the fleet to itself costs as much as the fleet, including boots, idle time and the
billed minimum.

**Requests** follow from the packs of images, and from the transactions that accepted and recorded them: the counts of
a job have both. They are the requests from upload to result, and those of the removal at the end, without those of
pages, and without those of an idle fleet (`at_rest`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from operator import add, sub

from core.config import ControllerSettings, PriceSettings
from core.fleet.models import BillingPeriod, FleetDay, FleetSnapshot
from core.jobs.models import Counts, Job, JobStatus
from core.jobs.packs import PackSizes

SECONDS_AN_HOUR = 3_600

MIN_PRICED_IMAGES = 100
"""Images that workers must have answered before the cost of 1,000 is shown: few images pay for a whole minute."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Billed requests; fractions are shares of a batch.

    Attributes:
        s3_put, s3_get: requests to S3 that put, copy or list, and those that get; deletes are free.
        sqs: requests to SQS, of up to ten messages and 64 KB each.
        sqs_fair: those of them with messages of a group, which cost more in a standard queue.
        table_write, table_read: request units of DynamoDB: one for each KB of an item written, two in a transaction,
            and one for each 4 KB read consistently.
    """

    s3_put: float = 0.0
    s3_get: float = 0.0
    sqs: float = 0.0
    sqs_fair: float = 0.0
    table_write: float = 0.0
    table_read: float = 0.0

    def __add__(self, other: "Requests") -> "Requests":
        """Return the sum."""
        return Requests(*map(add, astuple(self), astuple(other)))

    def __mul__(self, times: float) -> "Requests":
        """Return the requests multiplied."""
        return Requests(*(each * times for each in astuple(self)))

    def dollars(self, prices: PriceSettings) -> float:
        """Return the cost of the requests in US dollars."""
        return (
            self.s3_put * prices.s3_put_thousand / 1e3
            + self.s3_get * prices.s3_get_thousand / 1e3
            + (self.sqs * prices.sqs_million + self.sqs_fair * prices.fair_queue_million) / 1e6
            + self.table_write * prices.dynamodb_write_million / 1e6
            + self.table_read * prices.dynamodb_read_million / 1e6
        )

    @property
    def total(self) -> int:
        """The number of requests of all kinds."""
        return round(self.s3_put + self.s3_get + self.sqs + self.table_write + self.table_read)


def stored(fixed: int = 0, *, items: int = 1, transacted: bool = True, read: int = 1) -> Requests:
    """Return the requests for items of `fixed` bytes together: they are written, `read` in pages, and deleted.

    Of the last KB of an item a half is taken to be used. With no `items` it is a part of others.
    """
    units = (fixed / 1_024 + items / 2) * (3 if transacted else 2)
    return Requests(table_write=units, table_read=read * fixed / 4_096)


IMAGE = stored(25 + 50, items=0, read=3)
"""Requests of an image: its part of the items of its pack, a file name of a camera, and a result with five labels.

Both items are read for the search for lost images, for the file of all results, and for their removal.
"""

PACK = stored(280 + 650, items=2, read=3) + Requests(
    s3_put=1,  # its results object
    table_read=1,  # its item, before its results are recorded
)
"""Requests of a pack that a worker answers, without those for its object and its messages."""

STORED = Requests(s3_put=1, s3_get=1)  # the web tier puts it, or the controller copies it; a worker reads it
PRESIGNED = Requests(s3_put=2, s3_get=2)  # the client puts another one, of which the commit reads the size; the copy
IN_SHARD = Requests(s3_get=1)  # a worker reads its part of the shard
"""Requests for the object of a pack, by the way in which its images come."""

IN_PLACE = stored(95, items=0, read=3) + Requests(s3_get=1)
"""Requests of an image that a worker reads from its source: its key and ETag are in the item of its pack."""

SOURCE_PAGE = Requests(s3_put=1, table_write=2)
"""Requests for a page of a source: it is listed, and how far is written in the transaction that accepts it."""

ACCEPTANCE = Requests(
    table_write=6,  # the job is not being deleted, its mark as open, and the count of its images
    table_read=3,  # the job, whether it is cancelled, and the count
)
"""Requests of a transaction that accepts images."""

UPLOAD, UPLOADED_IMAGE = stored(270, transacted=False), stored(19, items=0, transacted=False)
"""Requests for the item with which an upload may be repeated, and for an image in it. Images that are sent one by one
have none."""

RECORDING = Requests(
    table_write=4,  # the job exists, and the count of its results
    table_read=1,  # the job
)
"""Requests of a transaction that records results."""

JOB = Requests(
    s3_put=5,  # the file of all results, and a listing a day for orphans
    s3_get=2,  # workers check whether it is cancelled, each every two seconds
    # The job, its mark as open and the removal of the mark, and the file; the mark of its orphans, and what sweeps
    # write; then the mark of the removal, and the deletion of all of these and of its counts.
    table_write=21,
    table_read=60,  # a few every `reconcile_seconds` and by the merger, until some minutes after the last image
)
"""Requests of a job in addition to those of its images."""

MAX_MESSAGES = 10
"""Messages that a call of SQS sends, receives or deletes."""

CALL = Requests(sqs=1, sqs_fair=1)
"""A call with messages, which are in the group of their user, as are their answers."""

HOLDING = CALL * 3
"""Requests for the messages that a worker holds for half a second: it hides them for longer, and names those of some
time in a heartbeat. It has ten lone images then, or one large pack."""

REQUEST_IMAGES = 50
"""Images that clients send in one request of the web tier, about."""


def requests_of(counts: Counts, job: Job | None = None) -> Requests:
    """Return the requests of the images of a job that workers answered, until they are removed with it.

    They follow from the images, their packs, and the transactions that accepted them and recorded their results.
    Without a `job` they are those of uploaded images.
    """
    images = answered_images(counts)
    packs = counts.answered_packs * images / max(1, counts.done + counts.failed)
    if not images:
        return Requests()
    answered_share = packs / max(1, packs, counts.packs)
    acceptances, presigned = answered_share * counts.acceptances, answered_share * counts.presigned
    made = IMAGE * images + PACK * packs + ACCEPTANCE * acceptances + RECORDING * counts.revision
    if job is None or not job.source:
        made += STORED * (packs - presigned) + PRESIGNED * presigned
        if job is None or not job.is_single:
            made += UPLOAD * acceptances + UPLOADED_IMAGE * images
    else:
        made += SOURCE_PAGE * acceptances
        made += IN_SHARD * packs if job.has_shards else STORED * packs if job.keep else IN_PLACE * images
    # The request of a pack is sent, received and deleted, and so is its response. A call has the messages of a
    # transaction, or ten of a larger one.
    accepted, recorded = (max(each, packs / MAX_MESSAGES) for each in (acceptances, counts.revision))
    return made + CALL * (accepted + 5 * recorded) + HOLDING * min(packs, images / MAX_MESSAGES)


def expected_counts(images: int, sizes: PackSizes) -> Counts:
    """Return the counts of a job once `images` are answered that are uploaded at once, in packs of these sizes."""
    packs, acceptances = sizes.count(images), -(-images // REQUEST_IMAGES)
    recordings = min(packs, -(-images // MAX_MESSAGES))
    return Counts(done=images, acceptances=acceptances, answered_packs=packs, revision=recordings)


def answered_images(counts: Counts) -> int:
    """Return how many images of a job workers have answered."""
    return max(0, counts.done + counts.failed - counts.cancelled)


@dataclass(frozen=True, slots=True)
class Bill:
    """What AWS bills.

    Attributes:
        seconds: instance-seconds.
        dollars: US dollars for them.
        saved: what Spot saved: the On-Demand price minus these dollars.
        requests_dollars: US dollars for requests of images.
    """

    seconds: float = 0.0
    dollars: float = 0.0
    saved: float = 0.0
    requests_dollars: float = 0.0

    def __add__(self, other: "Bill") -> "Bill":
        """Return the sum."""
        return Bill(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Bill") -> "Bill":
        """Return the difference."""
        return Bill(*map(sub, astuple(self), astuple(other)))


def bill_of(billed: BillingPeriod | FleetDay | FleetSnapshot) -> Bill:
    """Return what was billed in a billing period, on a day, or until a snapshot."""
    requests_dollars = 0.0 if isinstance(billed, BillingPeriod) else billed.requests_cost
    return Bill(billed.billed_seconds, billed.cost, billed.saved, requests_dollars)


def share_of(run: BillingPeriod, answers: int) -> Bill:
    """Return the cost of `answers` of the images of a billing period."""
    # The figures of the period may be one round older than the answers.
    share = min(1.0, answers / max(1, run.images))
    whole = bill_of(run)
    return Bill(whole.seconds * share, whole.dollars * share, whole.saved * share)


def instances_bill(counts: Counts, runs: Mapping[int, BillingPeriod]) -> Bill | None:
    """Return a job's share of the fleet's bill, or None if one of its billing periods is unknown."""
    shares = [share_of(runs[run], answers) if run in runs else None for run, answers in counts.runs]
    return total(share for share in shares if share is not None) if None not in shares else None


def total(bills: Iterable[Bill]) -> Bill:
    """Return the sum of bills."""
    return sum(bills, Bill())


@dataclass(frozen=True, slots=True)
class JobCost:
    """The cost of a job so far, of `images` that workers answered."""

    images: int
    instances: Bill
    requests: Requests
    request_dollars: float

    @classmethod
    def from_status(
        cls, status: JobStatus, runs: Mapping[int, BillingPeriod], prices: PriceSettings
    ) -> "JobCost | None":
        """Return the cost of a job, or None if it is unknown."""
        images, counts = answered_images(status.counts), status.counts
        bill = instances_bill(counts, runs)
        if bill is None or bool(images) != bool(counts.runs):
            return None  # an answer of an unknown billing period
        requests = requests_of(counts, status.job) + JOB if images else Requests()
        return cls(images, bill, requests, requests.dollars(prices))

    @property
    def dollars(self) -> float:
        """The cost of instances and requests."""
        return self.instances.dollars + self.request_dollars

    @property
    def dollars_per_thousand(self) -> float | None:
        """The cost of 1,000 images, or None if workers have answered none."""
        return self.dollars / self.images * 1_000 if self.images else None


def at_rest(controller: ControllerSettings) -> Requests:
    """Return the controller's requests in an idle hour.

    A protected worker adds 4,700 requests to SQS: a poll each second, and every ten a heartbeat, which is sent,
    received and deleted.
    """
    # Messages once a second, since a demand signal ends the wait, or once in a longer interval; dead letters.
    sqs = 1 / max(1.0, controller.interval_seconds) + 1 / 10
    sqs += 1 + 3 / controller.reconcile_seconds  # the collector's polls, and both queues and the dead letters
    writes = 3 / controller.lease_seconds + 1 / 5  # the lease, and the snapshot for the pages
    # Operators' commands; open jobs, for results files and for cancelled jobs; jobs with a source; notifications; and
    # open and deleted jobs.
    reads = 1 + 1 / 5 + 1 / 2 + 1 / 2 + 1 / 10 + 2 / controller.reconcile_seconds
    return Requests(sqs=sqs, table_write=writes, table_read=reads) * SECONDS_AN_HOUR
