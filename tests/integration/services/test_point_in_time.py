"""Point-in-time recovery of DynamoDB, as AWS documents it, over the wire."""

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.point_in_time import TableHistory
from services.clients import Clients
from services.table import EXPIRES_AT, Table
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


def enable(clients: Clients, name: str) -> None:
    clients.dynamodb.update_continuous_backups(
        TableName=name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )


def next_second() -> datetime:
    """Return a moment in whole seconds, which is all that can be restored, after everything that has happened."""
    moment = math.floor(time.time()) + 1
    wait_until(lambda: time.time() > moment, "a second begins")
    return datetime.fromtimestamp(moment, UTC)


def restored(clients: Clients, source: str, moment: datetime) -> Table:
    target = f"{source}-at-{moment:%H%M%S}"
    clients.dynamodb.restore_table_to_point_in_time(
        SourceTableName=source, TargetTableName=target, RestoreDateTime=moment
    )
    clients.dynamodb.get_waiter("table_exists").wait(TableName=target, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    return Table(clients.dynamodb, target)


def test_a_restored_table_has_the_items_of_its_moment_by_every_way_of_writing(table: Table, clients: Clients) -> None:
    table.put_all([{"pk": "a", "sk": str(number), "n": number} for number in range(3)])
    enable(clients, table.name)
    start = next_second()
    table.put_all([{"pk": "a", "sk": "1", "n": 10}])
    table.set("a", "2", {"n": 20})
    assert table.add("a", "3", {"n": 30}, {"was": "new"})
    table.delete_all([("a", "0")])
    changed = next_second()
    assert table.put_if({"pk": "a", "sk": "1", "n": 99}, "attribute_exists( #pk )")
    assert table.delete_if("a", "2", "#n = :n", {"n": 20})
    table.delete_all([("a", "3")])

    def numbers(of: Table) -> dict[str, Any]:
        return {str(item["sk"]): item["n"] for item in of.query("a", "0", "~")}

    assert numbers(restored(clients, table.name, start)) == {"0": 0, "1": 1, "2": 2}
    assert numbers(restored(clients, table.name, changed)) == {"1": 10, "2": 20, "3": 30}
    assert numbers(table) == {"1": 99}


def test_a_restored_table_lacks_the_settings_that_aws_does_not_restore_and_can_be_written(
    table: Table, clients: Clients
) -> None:
    enable(clients, table.name)
    copy = restored(clients, table.name, next_second())
    described = clients.dynamodb.describe_table(TableName=copy.name)["Table"]
    assert {each["AttributeName"] for each in described["KeySchema"]} == {"pk", "sk"}
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert described["RestoreSummary"]["SourceTableArn"].endswith(f":table/{table.name}")
    expiry = clients.dynamodb.describe_time_to_live(TableName=copy.name)["TimeToLiveDescription"]
    assert (expiry["TimeToLiveStatus"], expiry.get("AttributeName")) != ("ENABLED", EXPIRES_AT)
    backups = clients.dynamodb.describe_continuous_backups(TableName=copy.name)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "DISABLED"
    copy.put_all([{"pk": "b", "sk": "1"}])
    assert copy.get("b", "1")
    assert table.get("b", "1") is None


def test_what_cannot_be_restored_is_refused_with_the_error_of_aws(table: Table, clients: Clients) -> None:
    def refusal(source: str, moment: datetime, target: str = "restored-nowhere") -> str:
        with pytest.raises(ClientError) as error:
            clients.dynamodb.restore_table_to_point_in_time(
                SourceTableName=source, TargetTableName=target, RestoreDateTime=moment
            )
        return error.value.response["Error"]["Code"]

    now = datetime.now(UTC)
    assert refusal(table.name, now) == "PointInTimeRecoveryUnavailableException"
    enable(clients, table.name)
    now = next_second()
    assert refusal(table.name, now - timedelta(hours=1)) == "InvalidRestoreTimeException"
    assert refusal(table.name, now + timedelta(hours=1)) == "InvalidRestoreTimeException"
    assert refusal("no-such-table", now) == "SourceTableNotFoundException"
    assert refusal(table.name, now, table.name) == "TableAlreadyExistsException"


def test_the_history_is_bounded_and_says_from_when_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localcloud.point_in_time.MAX_CHANGES", 2)
    history = TableHistory(100.0, {("a", "0"): {"n": 0}})
    for number in range(1, 5):
        history.record(100.0 + number, ("a", str(number)), {"n": number})
    history.record(105.0, ("a", "0"), None)
    assert (history.earliest, len(history.changes)) == (103.0, 2)
    assert sorted(item["n"] for item in history.items_at(103.0)) == [0, 1, 2, 3]
    assert sorted(item["n"] for item in history.items_at(104.5)) == [0, 1, 2, 3, 4]
    assert sorted(item["n"] for item in history.items_at(105.0)) == [1, 2, 3, 4]
