"""Provisioning, by the APIs of the local cloud and of the emulator."""

import pytest

from core.provision import provision
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue
from tests.integration.services.conftest import WirePlace

pytestmark = pytest.mark.processes


def test_provisioning_twice_changes_nothing(wire: WirePlace) -> None:
    clients, config = wire.clients, wire.config()
    provision(clients, config)
    Bucket.named(clients, config.names.output_bucket).put("kept", b"1", "text/plain")
    requests = Queue.named(clients.sqs, config.names.request_queue)
    requests.send([OutgoingMessage("a", "kept")])
    provision(clients, config)
    assert Bucket.named(clients, config.names.output_bucket).get("kept") == b"1"
    assert requests.counts().total == 1


def test_everything_can_be_made_in_any_region_and_made_again(wire: WirePlace) -> None:
    config = wire.config(aws={"region": "eu-central-1"})
    there = Clients(config.aws.endpoint())
    provision(there, config)
    bucket = Bucket.named(there, config.names.input_bucket)
    bucket.put("kept", b"1", "text/plain")
    provision(there, config)
    assert bucket.get("kept") == b"1"


def test_a_changed_configuration_changes_the_queues(wire: WirePlace) -> None:
    clients, config = wire.clients, wire.config()
    provision(clients, config)
    queues = config.queues.model_copy(update={"visibility_timeout_seconds": 77})
    provision(clients, config.model_copy(update={"queues": queues}))
    url = clients.sqs.get_queue_url(QueueName=config.queue_name(config.names.request_queue))["QueueUrl"]
    found = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    assert found == {"VisibilityTimeout": "77"}
