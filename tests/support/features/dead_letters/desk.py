"""Dead letters in a web tier in the process of a test."""

from dataclasses import dataclass, field
from typing import Any

from flask.testing import FlaskClient

from core.config import Config
from core.ids import new_id
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from tests.support.jobs import NOW, add_images, failed, put_results
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from web_tier.app import create_app
from web_tier.features.dead_letters.store import DeadLetterStore


def give_up(store: JobStore, image: ImageRecord, attempt: int = 0) -> None:
    """Record that an image is given up, as the controller does."""
    result = failed(image, attempt=attempt).model_copy(update={"recorded_at": NOW, "attempts": 5})
    DeadLetterStore(store).put_each([result])
    put_results(store, result)


@dataclass
class DeadLetterDesk:
    """A web tier, and jobs of stored images that are dead letters."""

    config: Config
    store: JobStore
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    client: FlaskClient = field(init=False)

    def __post_init__(self) -> None:
        """Make the web tier."""
        app = create_app(self.config, store=self.store, input_bucket=self.bucket, request_queue=self.queue)
        self.client = app.test_client()

    def given_up(self, *filenames: str, name: str = "holiday", owner: str = "") -> list[ImageRecord]:
        """Make a job of images that were given up; return them in the order of their ids."""
        job = Job(new_id(), name, NOW, keep=True, owner=owner)
        self.store.create(job)
        images = add_images(self.store, job, *filenames)
        for image in images:
            self.bucket.objects[image.key] = b"pixels"
            give_up(self.store, image)
        return images

    def listed(self) -> list[str]:
        """Return the ids of the images that are listed."""
        body = self.client.get("/api/v1/dead-letters").get_json()
        return [letter["image_id"] for letter in body["dead_letters"]]

    def call(self, method: str, image: ImageRecord, order: str = "") -> Any:
        """Call the API for the dead letter of an image."""
        return self.client.open(address(image) + order, method=method)


def address(image: ImageRecord, root: str = "/api/v1") -> str:
    """Return the path of the dead letter of an image."""
    return f"{root}/dead-letters/{image.ref.job_id}/{image.ref.image_id}"
