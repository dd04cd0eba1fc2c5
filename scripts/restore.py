"""``fleetsight restore``: a new job table with the items that the present one had at an earlier moment.

Exit status: 0 if the new table is complete, 1 if AWS refuses or the moment cannot be restored, 2 for wrong usage or
without credentials.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
from botocore.exceptions import ClientError

from core.config import RESTORED_SUFFIX
from scripts.aws.commands import dry_run_option
from scripts.aws.context import AwsAccount, Waiter, aws_command
from scripts.aws.deploy.stack import find_stack
from services.clock import CLOCK, Clock
from services.errors import FleetsightError
from services.table import EXPIRES_AT

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

RESTORE_SECONDS: Final = 6 * 3600.0
"""The longest wait for a new table; AWS restores most tables in less than an hour, large ones in hours."""

POLL_SECONDS: Final = 10.0


class RestoreError(FleetsightError):
    """Raised when a table cannot be restored; the message says why and what to do."""


@dataclass(frozen=True)
class RestorePlan:
    """What is restored.

    Attributes:
        source, target: names of the tables.
        at: the moment in UTC, in whole seconds.
    """

    source: str
    target: str
    at: datetime


def parse_moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """Return a time in UTC; one without a zone could be of another zone than meant."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no time: write one such as 2026-11-25T12:00:00+00:00") from error
    if moment.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone: append +00:00 for UTC")
    return moment.astimezone(UTC)


@click.command("restore")
@click.option("--at", "moment", callback=parse_moment, metavar="TIME", help="Moment to restore [default: the latest]")
@click.option("--table", metavar="NAME", help="Table to restore [default: the one that the stack uses]")
@dry_run_option
@aws_command
def restore_command(
    account: AwsAccount, prefix: str, /, *, moment: datetime | None, table: str | None, dry_run: bool
) -> None:
    """Restore the job table at an earlier moment to a new table, by DynamoDB's point-in-time recovery.

    The present table stays. The command prints how to point the system at the new one. Run it again with the same
    TIME after a crash: it continues. docs/operate.md says what the new table lacks, and what repairs it.
    """
    plan = plan_restore(account.dynamodb, table or stack_table(account, prefix), moment)
    click.echo(f"{plan.source} at {plan.at.isoformat()} becomes the table {plan.target}")
    if dry_run:
        return
    restore(account.dynamodb, plan, click.echo)
    click.echo(
        f"{plan.target} is complete. Point the stack at it: ./scripts/fleetsight up --region {account.region_name} "
        f"--prefix {prefix} --set RestoredJobTable={plan.target}"
    )


def stack_table(account: AwsAccount, prefix: str) -> str:
    """Return the name of the job table of a stack.

    Raises:
        RestoreError: there is no stack of this prefix.
    """
    stack = find_stack(account, prefix)
    if stack is None:
        raise RestoreError(f"there is no stack {prefix} in {account.region_name}: give --prefix, or --table")
    return stack.outputs["JobTableName"]


def plan_restore(dynamodb: "DynamoDBClient", source: str, moment: datetime | None) -> RestorePlan:
    """Return the plan to restore a table at a moment, by default the latest one.

    Raises:
        RestoreError: the table does not exist, has no point-in-time recovery, or not for this moment.
    """
    try:
        backups = dynamodb.describe_continuous_backups(TableName=source)["ContinuousBackupsDescription"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"TableNotFoundException", "ResourceNotFoundException"}:
            raise
        raise RestoreError(f"there is no table {source}: give --table") from error
    recovery = backups.get("PointInTimeRecoveryDescription", {})
    if recovery.get("PointInTimeRecoveryStatus") != "ENABLED":
        raise RestoreError(f"{source} has no point-in-time recovery, so no earlier moment of it can be restored")
    earliest, latest = (
        recovery[name].astimezone(UTC) for name in ("EarliestRestorableDateTime", "LatestRestorableDateTime")
    )
    at = (moment or latest).replace(microsecond=0)
    if not earliest <= at <= latest:
        raise RestoreError(
            f"{source} can be restored from {earliest.isoformat()} to {latest.isoformat()}, not at {at.isoformat()}"
        )
    base = source.partition(RESTORED_SUFFIX)[0]
    return RestorePlan(source, f"{base}{RESTORED_SUFFIX}{at:%Y%m%dt%H%M%Sz}", at)


def restore(
    dynamodb: "DynamoDBClient",
    plan: RestorePlan,
    report: Callable[[str], None],
    clock: Clock = CLOCK,
) -> None:
    """Make the new table, and give it what AWS does not restore; a step that was done before is not repeated.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_RestoreTableToPointInTime.html

    Raises:
        RestoreError: another table has the name.
        TimedOutError: the table is not complete in time; the command can be run again.
    """
    source_arn = dynamodb.describe_table(TableName=plan.source)["Table"]["TableArn"]
    if (found := _table(dynamodb, plan.target)) is None:
        dynamodb.restore_table_to_point_in_time(
            SourceTableName=plan.source, TargetTableName=plan.target, RestoreDateTime=plan.at
        )
        report(f"DynamoDB makes {plan.target}")
    elif found.get("RestoreSummary", {}).get("SourceTableArn") != source_arn:
        raise RestoreError(f"the table {plan.target} exists, and was not restored from {plan.source}: delete it")

    def is_complete() -> bool:
        table = _table(dynamodb, plan.target)
        return table is not None and table["TableStatus"] == "ACTIVE"

    waiter = Waiter(clock, report)
    waiter.until(is_complete, f"{plan.target} to be complete", seconds=RESTORE_SECONDS, every=POLL_SECONDS)
    _restore_settings(dynamodb, plan)
    report(f"{plan.target} has its time to live, its own point-in-time recovery, and the tags of {plan.source}")


def _table(dynamodb: "DynamoDBClient", name: str) -> Any:
    try:
        return dynamodb.describe_table(TableName=name)["Table"]
    except dynamodb.exceptions.ResourceNotFoundException:
        return None


def _restore_settings(dynamodb: "DynamoDBClient", plan: RestorePlan) -> None:
    expiry = dynamodb.describe_time_to_live(TableName=plan.target)["TimeToLiveDescription"]
    if expiry["TimeToLiveStatus"] not in {"ENABLED", "ENABLING"}:  # DynamoDB refuses to enable what is enabled
        dynamodb.update_time_to_live(
            TableName=plan.target, TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRES_AT}
        )
    dynamodb.update_continuous_backups(
        TableName=plan.target, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )
    source = dynamodb.describe_table(TableName=plan.source)["Table"]
    tags = dynamodb.list_tags_of_resource(ResourceArn=source["TableArn"]).get("Tags", [])
    # `fleetsight down` finds the table by its tag. Only AWS sets tags that begin with aws:
    if own := [tag for tag in tags if not tag["Key"].startswith("aws:")]:
        target_arn = dynamodb.describe_table(TableName=plan.target)["Table"]["TableArn"]
        dynamodb.tag_resource(ResourceArn=target_arn, Tags=own)
    if source.get("DeletionProtectionEnabled"):
        dynamodb.update_table(TableName=plan.target, DeletionProtectionEnabled=True)
