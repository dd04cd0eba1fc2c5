"""A work queue with one active worker, from `services/` alone: SQS for the work, S3 for results, a DynamoDB lease.

    .venv/bin/python -m examples.work_queue --region us-east-1                 # in your AWS account
    .venv/bin/python -m examples.work_queue --endpoint http://127.0.0.1:4566   # a local AWS

It creates a queue, a bucket and a table with the prefix as their name, squares ten numbers, prints the results and
deletes everything again. `services/` imports nothing else of this repository: copy the folder to use it elsewhere.
"""

import argparse
import sys
import uuid

from services.clients import Clients
from services.endpoint import Endpoint
from services.lease import Lease
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue
from services.table import Table

NUMBERS = range(10)


def main() -> int:
    """Run the example; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--endpoint", help="address of a local AWS; the account of your credentials without it")
    parser.add_argument("--prefix", default=f"example-{uuid.uuid4().hex[:12]}")
    arguments = parser.parse_args()
    clients, name = Clients(Endpoint(arguments.region, arguments.endpoint)), arguments.prefix
    url = clients.sqs.create_queue(QueueName=name)["QueueUrl"]
    clients.s3.create_bucket(Bucket=name)
    clients.dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
    clients.dynamodb.get_waiter("table_exists").wait(TableName=name)
    queue, bucket, table = Queue(clients.sqs, url), Bucket.named(clients, name), Table(clients.dynamodb, name)
    try:
        work(queue, bucket, Lease(table, "worker", length_seconds=30))
    finally:
        clients.sqs.delete_queue(QueueUrl=url)
        bucket.delete_all(bucket.list_keys("", 1_000))
        clients.s3.delete_bucket(Bucket=name)
        clients.dynamodb.delete_table(TableName=name)
    return 0


def work(queue: Queue, bucket: Bucket, lease: Lease) -> None:
    """Enqueue numbers, square each as the holder of the lease, and print the results."""
    refused = queue.send([OutgoingMessage(str(number), str(number)) for number in NUMBERS])
    if refused:
        raise SystemExit(f"SQS refused {len(refused)} messages")
    while lease.take_or_renew() and (messages := queue.receive(wait_seconds=1)):
        for message in messages:
            # A put by key can be repeated: a message that is delivered twice gives the same object.
            bucket.put(f"squares/{message.body}", str(int(message.body) ** 2).encode(), "text/plain")
        queue.delete([message.receipt for message in messages])
    lease.release()
    for number in NUMBERS:
        print(f"{number} squared is {bucket.get(f'squares/{number}').decode()}")


if __name__ == "__main__":
    sys.exit(main())
