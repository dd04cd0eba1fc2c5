"""What images cost: their share of what the fleet is billed, and the requests that their way asks of the services.

**Instances.** All images that workers answered in a run of the fleet (`core.messages.BillingPeriod`) share what that
run cost, so that a job alone on the fleet costs what the fleet does, with boots, idle time and the billed minimum.

**Requests** follow from how the tiers batch them. They are those of the way from upload to result, not of people who
look at pages, and not of a fleet at rest (`at_rest`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.config import Controller, Prices
from core.fleet.models import BillingPeriod, FleetSnapshot
from core.jobs.models import Counts

SECONDS_AN_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Requests:
    """What AWS bills of requests; parts of one are shares of a batch.

    Attributes:
        s3_put, s3_get: requests to S3 that put, copy or list, and those that get; to delete is free.
        sqs: requests to SQS, of up to ten messages and 64 KB each.
        table_write, table_read: request units of DynamoDB: one for each KB of an item written, and for each 4 KB read
            consistently.
    """

    s3_put: float = 0.0
    s3_get: float = 0.0
    sqs: float = 0.0
    table_write: float = 0.0
    table_read: float = 0.0

    def __add__(self, other: "Requests") -> "Requests":
        """Return both together."""
        return Requests(
            self.s3_put + other.s3_put,
            self.s3_get + other.s3_get,
            self.sqs + other.sqs,
            self.table_write + other.table_write,
            self.table_read + other.table_read,
        )

    def __mul__(self, times: float) -> "Requests":
        """Return so many times as many."""
        return Requests(
            self.s3_put * times,
            self.s3_get * times,
            self.sqs * times,
            self.table_write * times,
            self.table_read * times,
        )

    def dollars(self, prices: Prices) -> float:
        """Return what they cost, in US dollars."""
        return (
            self.s3_put * prices.s3_put_thousand / 1e3
            + self.s3_get * prices.s3_get_thousand / 1e3
            + self.sqs * prices.sqs_million / 1e6
            + self.table_write * prices.dynamodb_write_million / 1e6
            + self.table_read * prices.dynamodb_read_million / 1e6
        )

    @property
    def total(self) -> int:
        """How many, of all kinds."""
        return round(self.s3_put + self.s3_get + self.sqs + self.table_write + self.table_read)


IMAGE = Requests(
    s3_put=2,  # the image, and its prediction
    s3_get=1,  # the worker reads the image
    sqs=0.7,  # request and response: each sent, received and deleted in tens, of which some are not full
    # Its record, its result, and what is remembered for repeats, each below 1 KB; and shares of the job's own items,
    # for each request of twenty images and for each batch of answers.
    table_write=3.15,
    # The look for a repeat. And its record, 200 bytes, is read by six sweeps while the job is young, and again with
    # its result, 1,200 bytes together, for the file of all results.
    table_read=1.8,
)
"""Of one image that a worker answers; a test counts them in the whole system."""

JOB = Requests(
    s3_put=1,  # the file of all results
    table_write=5,  # the job, that it is open and no longer, and the file
    table_read=60,  # a few every `reconcile_seconds` and by the merger, until some minutes after the last image
)
"""Of a job beside its images."""


def requests_of(images: int) -> Requests:
    """Return what a job asks of which `images` were answered by workers; of one without any, nothing is told.

    An image that was answered from the cache asks for a read and two writes of the table: $0.0014 for 1,000.
    """
    return IMAGE * images + JOB if images else Requests()


@dataclass(frozen=True, slots=True)
class Bill:
    """Instance-seconds as EC2 bills them, and US dollars."""

    seconds: float = 0.0
    dollars: float = 0.0

    def __add__(self, other: "Bill") -> "Bill":
        """Return both together."""
        return Bill(self.seconds + other.seconds, self.dollars + other.dollars)

    def __sub__(self, other: "Bill") -> "Bill":
        """Return what this one has more."""
        return Bill(self.seconds - other.seconds, self.dollars - other.dollars)


def share_of(run: BillingPeriod, answers: int) -> Bill:
    """Return what `answers` of the images of a run cost."""
    # The run's figures may be older than the answers by a look.
    share = min(1.0, answers / max(1, run.images))
    return Bill(run.billed_seconds * share, run.cost * share)


def instances_bill(counts: Counts, runs: Mapping[int, BillingPeriod]) -> Bill | None:
    """Return a job's share of what the fleet was billed; None when a run that it was answered in is not known.

    Args:
        counts: the job's.
        runs: of the fleet, by their number.
    """
    shares = [share_of(runs[run], answers) if run in runs else None for run, answers in counts.runs]
    return total(share for share in shares if share is not None) if None not in shares else None


def total(bills: Iterable[Bill]) -> Bill:
    """Return all of them together."""
    return sum(bills, Bill())


def by_workers(counts: Counts) -> int:
    """Return how many of a job's images have been answered by workers."""
    return max(0, counts.done - counts.cached + counts.failed)


@dataclass(frozen=True, slots=True)
class JobCost:
    """What a job has cost so far.

    Attributes:
        images: that workers have answered; those from the cache cost nothing that is told here.
        instances: its share of what the fleet was billed.
        requests: what it asked of the services.
        request_dollars: the same in US dollars.
    """

    images: int
    instances: Bill
    requests: Requests
    request_dollars: float

    @classmethod
    def of(cls, counts: Counts, runs: Mapping[int, BillingPeriod], prices: Prices) -> "JobCost | None":
        """Return the cost of a job; None when it cannot be told."""
        images = by_workers(counts)
        bill = instances_bill(counts, runs)
        if bill is None or bool(images) != bool(counts.runs):
            return None  # an answer of an unknown run
        asked = requests_of(images)
        return cls(images, bill, asked, asked.dollars(prices))

    @property
    def dollars(self) -> float:
        """Instances and requests together."""
        return self.instances.dollars + self.request_dollars

    @property
    def dollars_per_thousand(self) -> float | None:
        """Dollars for 1,000 images; None where no worker has answered any."""
        return self.dollars / self.images * 1_000 if self.images else None


@dataclass(frozen=True, slots=True)
class ThousandCost:
    """What 1,000 images have cost so far, over all that workers have answered, in US dollars."""

    instances_dollars: float
    requests_dollars: float

    @classmethod
    def of(cls, fleet: FleetSnapshot, prices: Prices) -> "ThousandCost | None":
        """Return what the fleet's figures say; None before the first answer of a worker."""
        if not fleet.images:
            return None
        return cls(fleet.cost / fleet.images * 1_000, (IMAGE * 1_000).dollars(prices))

    @property
    def dollars(self) -> float:
        """Both together."""
        return self.instances_dollars + self.requests_dollars


def at_rest(controller: Controller) -> Requests:
    """Return what the controller asks in an hour in which there is nothing to do.

    A protected worker adds 4,700 requests to SQS: a poll each second, and every ten a heartbeat, which is sent,
    received and deleted.
    """
    sqs = 1 / controller.interval_seconds + 1 / 2  # messages at each look, dead letters every two seconds
    sqs += 1 + 3 / controller.reconcile_seconds  # the collector's polls, and both queues and the dead letters
    writes = 3 / controller.lease_seconds + 1 / 5  # the lease, and what the pages show
    reads = (
        1 + 1 / 2 + 2 / controller.reconcile_seconds
    )  # orders of ops; open jobs, by the merger; open and deleted ones
    return Requests(sqs=sqs, table_write=writes, table_read=reads) * SECONDS_AN_HOUR
