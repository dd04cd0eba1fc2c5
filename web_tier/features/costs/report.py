"""The cost report: what images cost by day, user, job or model, for operators of all users, for a user of their own.

Costs are estimates by the price table of config.yaml, not the bill of AWS. The cost of the instances is the share of
each image in its billing period (`core.cost`), that of the requests follows from the number of images. Days are UTC.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final, Literal

from botocore.exceptions import BotoCoreError, ClientError

from core.config import PriceSettings
from core.cost import WHOLE_IMAGE, Bill, bill_of, share_of, total
from core.fleet.costs import MAX_DAY_ROWS, CostRow, CostStore
from core.fleet.models import BillingPeriod, FleetDay
from core.fleet.store import FleetStore
from core.jobs.store import JobStore
from services.user_errors import UserPoolError
from web_tier.auth.context import current_auth, signs_in
from web_tier.auth.identity import current_identity
from web_tier.http.backend import current_backend
from web_tier.results.export import csv_of, safe_cell
from web_tier.results.progress import billing_periods

Grouping = Literal["day", "user", "job", "model"]

MAX_REPORT_DAYS: Final = 31
"""Days of one report."""

MAX_REPORT_ROWS: Final = 2 * MAX_DAY_ROWS
"""Rows that one report reads, over all its days: some 4 MB in 40 calls."""

MAX_NAMED_USERS: Final = 100
"""Users of a report with an e-mail address that is looked up, each a call to the user pool; others have their id."""

CSV_HEADER: Final = (
    "day",
    "user",
    "job_id",
    "job_name",
    "model",
    "model_digest",
    "images",
    "instance_seconds",
    "instances_dollars",
    "requests_dollars",
    "dollars",
    "spot_saved_dollars",
)
"""Columns of the CSV. Clients read them by name or by place: add new ones at the end."""

NOT_ATTRIBUTED: Final = "(not attributed)"
"""In place of a user: what the fleet was billed and no image of a job has caused."""


@dataclass(frozen=True, slots=True)
class CostLine:
    """What some images cost; attributes that the report does not group by are empty.

    Attributes:
        owner, user: id of the user, and their e-mail address or else the id.
        job_name: empty if the job does not exist any more.
        bill: cost of the instances.
        requests: cost of the requests in US dollars.
    """

    images: int
    bill: Bill
    requests: float
    day: date | None = None
    owner: str = ""
    user: str = ""
    job_id: str = ""
    job_name: str = ""
    model: str = ""
    digest: str = ""

    @property
    def dollars(self) -> float:
        """The cost of instances and requests."""
        return self.bill.dollars + self.requests


@dataclass(frozen=True, slots=True)
class CostReport:
    """A report.

    Attributes:
        days: the days of the report, newest first.
        lines: dearest first; grouped by day, newest first.
        rest: for operators, what the fleet was billed and no line has: idle time, and answers that no row counts.
        unknown_images: images of billing periods that are too old to be known; they are in no line's cost.
    """

    days: tuple[date, ...]
    by: Grouping
    lines: tuple[CostLine, ...]
    total: CostLine
    rest: CostLine | None
    unknown_images: int = 0
    is_complete: bool = True


@dataclass(frozen=True)
class CostReports:
    """Makes reports.

    Attributes:
        jobs: all jobs, for their names; its table has the rows of the reports.
        owner: of the jobs; None for the jobs of all users, with the bill of the fleet.
    """

    fleet: FleetStore
    jobs: JobStore
    prices: PriceSettings
    owner: str | None

    def report(self, day: date, days: int, by: Grouping) -> CostReport:
        """Return the report of `days` days until `day`, from 1 to `MAX_REPORT_DAYS`."""
        wanted = tuple(day - timedelta(days=back) for back in range(days))
        billed = self._fleet_days(wanted) if self.owner is None else []
        if self.owner is None and by == "day":
            whole = tuple(self._line(each.images, bill_of(each), day=each.day) for each in billed)
            return CostReport(wanted, by, whole, _sum(whole), None)
        rows, is_complete = self._rows(wanted)
        numbers = {row.period for row in rows}
        periods = billing_periods(numbers, self.fleet.snapshot(), self.fleet) if numbers else {}
        lines = self._grouped(rows, periods, by)
        rest = None
        if self.owner is None:
            left = total(map(bill_of, billed)) - total(line.bill for line in lines)
            bill = Bill(max(0.0, left.seconds), max(0.0, left.dollars), max(0.0, left.saved))
            images = max(0, sum(each.images for each in billed) - sum(line.images for line in lines))
            rest = self._line(images, bill, user=NOT_ATTRIBUTED)
        unknown = sum(row.images for row in rows if row.period not in periods)
        whole_sum = _sum((*lines, *([] if rest is None else [rest])))
        return CostReport(wanted, by, lines, whole_sum, rest, unknown, is_complete)

    def named(self, lines: Sequence[CostLine]) -> list[CostLine]:
        """Return lines with the names of their jobs, and of their users as far as they are known."""
        job_ids = {line.job_id for line in lines if line.job_id}
        jobs = self.jobs.jobs_of(job_ids) if job_ids else {}
        users = _user_names([line.owner for line in lines])
        return [
            replace(
                line,
                job_name=jobs[line.job_id].name if line.job_id in jobs else "",
                user=users.get(line.owner) or line.user or line.owner,
            )
            for line in lines
        ]

    def _fleet_days(self, wanted: Sequence[date]) -> list[FleetDay]:
        snapshot = self.fleet.snapshot()
        today = snapshot.today if snapshot else None
        found = {each.day: each for each in self.fleet.days()} | ({} if today is None else {today.day: today})
        return [found[day] for day in wanted if day in found]

    def _rows(self, wanted: Sequence[date]) -> tuple[list[CostRow], bool]:
        rows, store = list[CostRow](), CostStore(self.jobs.table)
        for day in wanted:
            limit = min(MAX_DAY_ROWS, MAX_REPORT_ROWS - len(rows))
            if limit <= 0:
                return rows, False
            found = store.rows(day, self.owner, limit)
            rows += found
            if len(found) == limit:
                return rows, False
        return rows, True

    def _grouped(
        self, rows: Iterable[CostRow], periods: Mapping[int, BillingPeriod], by: Grouping
    ) -> tuple[CostLine, ...]:
        groups: dict[CostLine, list[CostRow]] = defaultdict(list)
        for row in rows:
            groups[_group(row, by)].append(row)
        lines = []
        for group, members in groups.items():
            bill = total(share_of(periods[row.period], row.images) for row in members if row.period in periods)
            images = sum(row.images for row in members)
            lines.append(replace(group, images=images, bill=bill, requests=self._requests(images)))
        if by == "day":
            return tuple(sorted(lines, key=lambda line: line.day or date.min, reverse=True))
        return tuple(sorted(lines, key=lambda line: (-line.dollars, line.job_id, line.owner, line.model)))

    def _line(self, images: int, bill: Bill, *, day: date | None = None, user: str = "") -> CostLine:
        return CostLine(images, bill, self._requests(images), day=day, user=user)

    def _requests(self, images: int) -> float:
        return (WHOLE_IMAGE * images).dollars(self.prices)


def _group(row: CostRow, by: Grouping) -> CostLine:
    """Return the line of a row's group, without its figures."""
    line = CostLine(0, Bill(), 0.0)
    match by:
        case "day":
            return replace(line, day=row.day)
        case "user":
            return replace(line, owner=row.owner)
        case "job":
            return replace(line, owner=row.owner, job_id=row.job_id)
        case "model":
            return replace(line, model=row.model, digest=row.digest)


def _sum(lines: Iterable[CostLine]) -> CostLine:
    lines = list(lines)
    return CostLine(
        sum(line.images for line in lines), total(line.bill for line in lines), sum(line.requests for line in lines)
    )


def _user_names(owners: Iterable[str]) -> dict[str, str]:
    """Return the e-mail addresses of users by their ids, as far as the user pool has them."""
    known = list(dict.fromkeys(owner for owner in owners if owner))[:MAX_NAMED_USERS]
    if not known or not signs_in():
        return {}
    names = {}
    for owner in known:
        try:
            account = current_auth().accounts.find(owner)
        except (BotoCoreError, ClientError, UserPoolError):
            break  # the report is right without names
        if account is not None:
            names[owner] = account.email
    return names


def visible_reports() -> CostReports:
    """Return the reports that the current user may see: of all jobs for operators, else of their own."""
    backend, identity = current_backend(), current_identity()
    owner = None if identity.operates else identity.owner
    return CostReports(backend.fleet, backend.store, backend.config.prices, owner)


def csv_lines(lines: Iterable[CostLine]) -> Iterator[str]:
    """Yield the header and a line of CSV (RFC 4180) for each line of a report."""
    yield from csv_of([CSV_HEADER])
    yield from csv_of(map(safe_cell, _csv_row(line)) for line in lines)


def _csv_row(line: CostLine) -> tuple[str, ...]:
    return (
        "" if line.day is None else line.day.isoformat(),
        *(line.user, line.job_id, line.job_name, line.model, line.digest),
        str(line.images),
        f"{line.bill.seconds:.1f}",
        *(f"{each:.8f}" for each in (line.bill.dollars, line.requests, line.dollars, line.bill.saved)),
    )
