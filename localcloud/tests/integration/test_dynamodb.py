"""Tables under many threads, over the wire."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from localcloud.tests.support.cloud_clients import CloudClients
from localcloud.tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

RACERS = 16
_names = count()


def new_table(dynamodb: Any) -> str:
    name = f"table-{next(_names)}"
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


def race(attempt: Callable[[int], None]) -> None:
    """Let many threads try at the same moment; raise the first error."""
    start = threading.Barrier(RACERS)

    def run(racer: int) -> None:
        start.wait(DEADLINE_SECONDS)
        attempt(racer)

    with ThreadPoolExecutor(RACERS) as pool:
        list(pool.map(run, range(RACERS)))


RACE = """
import json, sys, threading
from werkzeug.test import Client
from localcloud.tests.support.signed_requests import signed
from localcloud.server import create_application

application = create_application()

def call(operation, **parameters):
    body = json.dumps({"TableName": "t", **parameters}).encode()
    named = {"X_Amz_Target": f"DynamoDB_20120810.{operation}", "Content_Type": "application/x-amz-json-1.0"}
    headers = signed("dynamodb", "POST", "http://localhost/", body, **named)
    return Client(application).post("/", data=body, headers=headers).status_code

def put(key, start, winners):
    start.wait()
    if call("PutItem", Item={"pk": {"S": key}}, ConditionExpression="attribute_not_exists(pk)") == 200:
        winners.append(key)

call("CreateTable", BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
     AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}])
sys.setswitchinterval(1e-6)  # threads change at almost every instruction
for number in range(100):
    start, winners = threading.Barrier(8), []
    racers = [threading.Thread(target=put, args=(str(number), start, winners)) for _ in range(8)]
    for racer in racers: racer.start()
    for racer in racers: racer.join()
    assert len(winners) == 1, f"{len(winners)} winners of one key"
"""


def test_exactly_one_wins_even_where_threads_change_at_every_instruction() -> None:
    """In a process of its own: over the wire, stock moto's race (1 key in 10 here) is too narrow to hit."""
    race = subprocess.run(
        [sys.executable, "-c", RACE], check=False, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert race.returncode == 0, race.stderr[-2000:]


def test_no_increment_is_lost_and_no_query_fails_beside_it(apis: CloudClients) -> None:
    dynamodb = apis("dynamodb")
    table = new_table(dynamodb)

    def add(racer: int) -> None:
        for _ in range(5):
            dynamodb.update_item(
                TableName=table,
                Key={"pk": {"S": "count"}, "sk": {"S": "0"}},
                UpdateExpression="ADD n :one",
                ExpressionAttributeValues={":one": {"N": "1"}},
            )
            dynamodb.put_item(TableName=table, Item={"pk": {"S": f"p{racer}"}, "sk": {"S": "0"}})
            query_all(dynamodb, table, "count")

    race(add)
    (item,) = query_all(dynamodb, table, "count")
    assert item["n"] == {"N": str(5 * RACERS)}


def query_all(dynamodb: Any, table: str, partition: str) -> list[dict[str, Any]]:
    values = {":pk": {"S": partition}}
    answer = dynamodb.query(TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues=values)
    return list(answer["Items"])
