"""The API of the cost report: what images cost by day, user, job or model, as JSON and as CSV."""

from datetime import date
from typing import Self

from flask import Response
from pydantic import Field

from core.fleet.costs import MAX_DAY_ROWS
from services.clock import utc_now
from web_tier.auth.permissions import Right
from web_tier.features.costs.report import MAX_REPORT_DAYS, CostLine, CostReport, Grouping, csv_lines, visible_reports
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parsing import MAX_PAGE, CsvOptions, Query, json_response, parse_query
from web_tier.http.routes import Routes

costs_api = Routes("costs_api", right=Right.READ)


class CostsQuery(Query):
    """Which days, and how the costs are grouped."""

    day: date | None = Field(
        default=None,
        ge=date(2000, 1, 1),
        le=date(2999, 12, 31),
        description="The last day of the report (UTC); today without it. The last 62 days are kept.",
    )
    days: int = Field(default=1, ge=1, le=MAX_REPORT_DAYS, description="Days of the report.")
    by: Grouping = Field(default="job", description="What a row is about.")
    limit: int = Field(default=100, ge=1, le=MAX_PAGE, description="Rows, at most: the dearest ones.")


class CostsCsvQuery(CostsQuery, CsvOptions):
    """Which days, how the costs are grouped, and how the file is written."""

    limit: int = Field(default=MAX_DAY_ROWS, ge=1, le=MAX_DAY_ROWS, description="Rows, at most: the dearest ones.")


class CostBody(ApiBody):
    """What some images cost, in US dollars; null where the report is not grouped by it."""

    day: date | None = None
    user: str | None = Field(default=None, description="E-mail address, or else the user's id.")
    job_id: str | None = None
    job_name: str | None = Field(default=None, description="Null if the job does not exist any more.")
    model: str | None = None
    model_digest: str | None = Field(default=None, description="The beginning of the digest.")
    images: int = Field(description="Answered by workers; images from the cache cost no worker's time.")
    instance_seconds: float
    instances_dollars: float = Field(description="Their share of the instances, with boots and idle time.")
    requests_dollars: float = Field(description="Of S3, SQS and DynamoDB, from the number of images.")
    dollars: float
    spot_saved_dollars: float = Field(
        description="What the same seconds would have cost On-Demand, minus `instances_dollars`."
    )

    @classmethod
    def from_line(cls, line: CostLine) -> Self:
        """Return the body of a line."""
        return cls(
            day=line.day,
            user=line.user or None,
            job_id=line.job_id or None,
            job_name=line.job_name or None,
            model=line.model or None,
            model_digest=line.digest or None,
            images=line.images,
            instance_seconds=round(line.bill.seconds, 1),
            instances_dollars=round(line.bill.dollars, 8),
            requests_dollars=round(line.requests, 8),
            dollars=round(line.dollars, 8),
            spot_saved_dollars=round(line.bill.saved, 8),
        )


class CostsBody(ApiBody):
    """A cost report. All amounts are estimates by the price table of config.yaml, and not the bill of AWS."""

    first_day: date
    last_day: date
    by: Grouping
    costs: tuple[CostBody, ...] = Field(description="Dearest first; by day, newest first.")
    omitted: int = Field(description="Rows beyond `limit`.")
    total: CostBody = Field(description="Of all rows, also the omitted ones, and of `not_attributed`.")
    not_attributed: CostBody | None = Field(
        description="For operators: what the fleet was billed and no row has, such as workers without work. "
        "Null for users, and by day, where each row has the whole bill."
    )
    unknown_images: int = Field(
        description="Images of billing periods that are too old to be known: they cost 0 here."
    )
    is_complete: bool = Field(description="False if there are more data than a report reads: ask for fewer days.")

    @classmethod
    def from_report(cls, report: CostReport, shown: list[CostLine]) -> Self:
        """Return the body of a report with these of its lines."""
        return cls.copied_from(
            report,
            first_day=report.days[-1],
            last_day=report.days[0],
            costs=tuple(map(CostBody.from_line, shown)),
            omitted=len(report.lines) - len(shown),
            total=CostBody.from_line(report.total),
            not_attributed=None if report.rest is None else CostBody.from_line(report.rest),
        )


def _report(query: CostsQuery) -> tuple[CostReport, list[CostLine]]:
    """Return the report of a query, and the lines to show with their names."""
    reports = visible_reports()
    report = reports.report(query.day or utc_now().date(), query.days, query.by)
    return report, reports.named(report.lines[: query.limit])


@costs_api.get("/costs")
@operation(ApiResponse(200, "The report.", CostsBody), name="costs", tag="System", query=CostsQuery)
def costs() -> Response:
    """Get what images cost, by job, user, model or day (UTC).

    Operators see the costs of all jobs, and a user those of their own. The amounts are estimates by the price table
    of `config.yaml`, and not the bill of AWS. Rows appear some seconds after the answers, and may still change until
    their billing period has ended. They are kept for 62 days, also if the job is deleted.
    """
    return json_response(CostsBody.from_report(*_report(parse_query(CostsQuery))))


@costs_api.get("/costs.csv")
@operation(
    ApiResponse(200, "A header and a line for each row (RFC 4180).", "text/csv"),
    name="costs_csv",
    tag="System",
    query=CostsCsvQuery,
)
def costs_csv() -> Response:
    """Get the cost report as CSV.

    Read columns by name: later versions may add some at the end. For operators the last line is what is not
    attributed. A cell that a spreadsheet could execute as a formula begins with an apostrophe.
    """
    query = parse_query(CostsCsvQuery)
    report, lines = _report(query)
    rest = [] if report.rest is None else [report.rest]
    text = "".join(query.written(csv_lines([*lines, *rest])))
    answer = Response(text, content_type="text/csv; charset=utf-8")
    name = f"costs-{report.days[-1].isoformat()}-{report.days[0].isoformat()}-by-{report.by}.csv"
    answer.headers.set("Content-Disposition", "attachment", filename=name)
    return answer
