"""The cost of images: their share of the fleet's bill, and the requests to AWS services that they cause.

**Instances.** The images that workers answered in a billing period of the fleet (`core.fleet.models.BillingPeriod`)
share its cost. So a job that has the fleet to itself costs as much as the fleet, including boots, idle time and the
billed minimum.

**Requests** follow from how the tiers batch them. They are the requests from upload to result, and those of the
removal at the end, without those of pages, and without those of an idle fleet (`at_rest`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from operator import add

from core.config import ControllerSettings, PriceSettings
from core.fleet.models import BillingPeriod, FleetDay, FleetSnapshot
from core.jobs.models import Counts

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


IMAGE = Requests(
    s3_put=2,  # the image, and its prediction
    s3_get=1,  # the worker reads the image
    sqs=0.7,  # request and response: each sent, received and deleted in tens, of which some are not full
    sqs_fair=0.35,  # requests are of their user's group
    # Its record and its result, each below 1 KB, in transactions; and shares of the job's items in these, for twenty
    # images each or for a batch of responses.
    table_write=4.7,
    # Its record is read once for its result, and again with it, 1,200 bytes together, for the file with all results.
    table_read=1.4,
)
"""Requests of one image that a worker answers; a test counts them in the whole system."""

REMOVAL = Requests(
    table_write=2,  # its record and its result are deleted
    table_read=0.3,  # both are read in pages
)
"""Requests that remove one image with its job, when the job expires or is deleted; those to S3 are free, but for two
listings of 1,000 keys."""

WHOLE_IMAGE = IMAGE + REMOVAL
"""Requests of one image that a worker answers, from its upload to its removal."""

JOB = Requests(
    s3_put=5,  # the file of all results, and a listing a day for orphans
    s3_get=2,  # workers check whether it is cancelled, each every two seconds
    # The job, its mark as open and the removal of the mark, and the file; the mark of its orphans, and what sweeps
    # write; then the mark of the removal, and the deletion of all of these and of its counts.
    table_write=21,
    table_read=60,  # a few every `reconcile_seconds` and by the merger, until some minutes after the last image
)
"""Requests of a job in addition to those of its images."""


def requests_of(images: int) -> Requests:
    """Return the requests of a job of which workers answered `images`, to its removal; none if that is 0."""
    return WHOLE_IMAGE * images + JOB if images else Requests()


@dataclass(frozen=True, slots=True)
class Bill:
    """Instance-seconds as EC2 bills them, US dollars, and what Spot saved: the On-Demand price minus the dollars."""

    seconds: float = 0.0
    dollars: float = 0.0
    saved: float = 0.0

    def __add__(self, other: "Bill") -> "Bill":
        """Return the sum."""
        return Bill(self.seconds + other.seconds, self.dollars + other.dollars, self.saved + other.saved)

    def __sub__(self, other: "Bill") -> "Bill":
        """Return the difference."""
        return Bill(self.seconds - other.seconds, self.dollars - other.dollars, self.saved - other.saved)


def bill_of(billed: BillingPeriod | FleetDay | FleetSnapshot) -> Bill:
    """Return the cost of the instances in a billing period, on a day, or until a snapshot."""
    return Bill(billed.billed_seconds, billed.cost, billed.saved)


def day_dollars(day: FleetDay, prices: PriceSettings) -> float:
    """Return the cost of a day (UTC): of its instances, and of the requests of its images."""
    return day.cost + (WHOLE_IMAGE * day.images).dollars(prices)


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
    def from_counts(
        cls, counts: Counts, runs: Mapping[int, BillingPeriod], prices: PriceSettings
    ) -> "JobCost | None":
        """Return the cost of a job, or None if it is unknown."""
        images = max(0, counts.done + counts.failed - counts.cancelled)  # answered by workers
        bill = instances_bill(counts, runs)
        if bill is None or bool(images) != bool(counts.runs):
            return None  # an answer of an unknown billing period
        requests = requests_of(images)
        return cls(images, bill, requests, requests.dollars(prices))

    @property
    def dollars(self) -> float:
        """The cost of instances and requests."""
        return self.instances.dollars + self.request_dollars

    @property
    def dollars_per_thousand(self) -> float | None:
        """The cost of 1,000 images, or None if workers have answered none."""
        return self.dollars / self.images * 1_000 if self.images else None


@dataclass(frozen=True, slots=True)
class ThousandCost:
    """The average cost of 1,000 images that workers have answered so far, in US dollars."""

    instances_dollars: float
    requests_dollars: float

    @classmethod
    def from_snapshot(cls, fleet: FleetSnapshot, prices: PriceSettings) -> "ThousandCost | None":
        """Return the cost by the fleet's snapshot, or None before the first answer of a worker."""
        if not fleet.images:
            return None
        return cls(fleet.cost / fleet.images * 1_000, (WHOLE_IMAGE * 1_000).dollars(prices))

    @property
    def dollars(self) -> float:
        """The cost of instances and requests."""
        return self.instances_dollars + self.requests_dollars


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
