"""A local cloud with the system's buckets, queues and table, for a benchmark that starts one of the tiers alone."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from core.config import PATH_VARIABLE, load_config
from core.ids import ImageRef, new_id
from core.images import FORMATS
from core.jobs.buckets import InputBucket
from core.jobs.models import ImageRecord, Job
from core.jobs.requests import request_images
from core.messages import ClassificationResult, Response, parse_worker_message
from core.provision import provision
from localcloud.clients import ControlClient
from localcloud.launch import LocalCloud
from scripts.run.system import ROOT
from services.clients import Clients
from services.sqs import Queue


class LocalServices:
    """The services of a local cloud, where no tier runs yet.

    Attributes:
        environment: of a process of any tier; a worker with it ends soon after its last image.
        config: what such a process reads.
        clients: of this program.
        requests, responses: queues.
        inputs: bucket of images.
    """

    def __init__(self, cloud: LocalCloud) -> None:
        os.environ |= {name: value for name, value in cloud.environment().items() if name != "AWS_ENDPOINT_URL"}
        self.environment = os.environ | {
            "AWS_ENDPOINT_URL": cloud.endpoint_url,
            "FLEETSIGHT__AWS__ENDPOINT_URL": cloud.endpoint_url,
            "FLEETSIGHT__WORKER__IDLE_SECONDS": "0.3",
            # No metadata service here: refused at once, as a local one that is missing would be.
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9/",
            PATH_VARIABLE: str(ROOT / "config.yaml"),
        }
        self.config = load_config(ROOT / "config.yaml", self.environment)
        self.clients = Clients(self.config.aws.endpoint())
        provision(self.clients, self.config)
        names = self.config.names
        self.requests = Queue.named(self.clients.sqs, self.config.queue_name(names.request_queue))
        self.responses = Queue.named(self.clients.sqs, self.config.queue_name(names.response_queue))
        self.inputs = InputBucket.named(self.clients, names.input_bucket)

    def request(self, photo: bytes) -> ImageRef:
        """Put an image into the input bucket, and send its request to the workers.

        Raises:
            RuntimeError: the local cloud refuses the request.
        """
        now, jpeg = datetime.now(UTC), FORMATS["JPEG"]
        image = ImageRecord.of(Job(new_id(), "", now), new_id(), "photo.jpg", jpeg, len(photo), now)
        self.inputs.put(image, photo, is_kept=True)
        if request_images(self.requests, [image], now, ""):
            raise RuntimeError("the local cloud refused a request")
        return image.ref

    def answers(self) -> Iterator[tuple[float, ClassificationResult]]:
        """Yield the responses that wait, each with the moment at which it was sent (epoch seconds)."""
        while received := self.responses.receive(wait_seconds=0):
            self.responses.delete([each.receipt for each in received])
            for message in received:
                if isinstance(response := parse_worker_message(message.body), Response):
                    yield from ((message.sent_at, each) for each in response.results)


@contextmanager
def slow_calls(endpoint_url: str, delays: Mapping[str, float], tier: str) -> Iterator[None]:
    """Let the local cloud answer a tier's calls later within the block: by so many seconds, by service."""
    faults = [{"kind": "slow", "service": name, "seconds": seconds, "tier": tier} for name, seconds in delays.items()]
    with closing(ControlClient(endpoint_url)) as control:
        control.call("PUT", "switches", {"faults": faults})
        try:
            yield
        finally:
            control.call("PUT", "switches", {"faults": []})
