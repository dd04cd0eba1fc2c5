"""Restores of a DynamoDB table, as the rehearsals of `fleetsight restore` use them."""

from datetime import UTC, datetime

import pytest

from services.clients import Clients
from services.table import EXPIRES_AT, Table

pytestmark = pytest.mark.processes


def test_a_restored_table_has_the_items_but_not_the_settings_that_aws_leaves_out(
    table: Table, clients: Clients
) -> None:
    table.put_all([{"pk": "a", "sk": str(number), "n": number} for number in range(3)])
    assert list(table.query("a", "0", "~"))  # from here on the partition is sorted
    clients.dynamodb.update_continuous_backups(
        TableName=table.name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )
    target = f"{table.name}-restored"
    clients.dynamodb.restore_table_to_point_in_time(
        SourceTableName=table.name, TargetTableName=target, RestoreDateTime=datetime.now(UTC)
    )
    copy = Table(clients.dynamodb, target)
    copy.put_all([{"pk": "a", "sk": "00", "n": 9}, {"pk": "b", "sk": "1"}])
    assert [item["n"] for item in copy.query("a", "0", "~")] == [0, 9, 1, 2]
    assert (table.get("a", "00"), table.get("b", "1")) == (None, None)
    described = clients.dynamodb.describe_table(TableName=target)["Table"]
    assert {each["AttributeName"] for each in described["KeySchema"]} == {"pk", "sk"}
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert described["RestoreSummary"]["SourceTableArn"].endswith(f":table/{table.name}")
    expiry = clients.dynamodb.describe_time_to_live(TableName=target)["TimeToLiveDescription"]
    assert (expiry["TimeToLiveStatus"], expiry.get("AttributeName")) != ("ENABLED", EXPIRES_AT)
    backups = clients.dynamodb.describe_continuous_backups(TableName=target)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "DISABLED"
