"""Web tiers in the process of a test: requests to the API, checks of its responses, and dead letters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from types import MethodType
from typing import Any, Final

import pytest
from flask import Flask, template_rendered
from flask.testing import FlaskClient
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket as CompiledTemplate
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from core.config import Config
from core.ids import new_id
from core.jobs.dead_letters import DeadLetterStore
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from tests.support.jobs import NOW, add_images, failed
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from web_tier.app import create_app
from web_tier.features.fleet_control.pages import FleetBody

AppMaker = Callable[..., Flask]
"""Makes a web tier; is given the sections of the configuration that differ, and `bucket`, `queue` or `auth`."""

File = tuple[str, bytes]
"""Name and content of an uploaded file."""


def upload(client: FlaskClient, job: Job, *files: File) -> TestResponse:
    """Upload files into a job by one form."""
    data = {f"field{index}": (BytesIO(content), name) for index, (name, content) in enumerate(files)}
    return client.post(f"/api/v1/jobs/{job.job_id}/images", data=data, content_type="multipart/form-data")


def problem(answer: TestResponse, status: int) -> str:
    """Return the detail of `answer`, which must be a problem."""
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    return str(answer.get_json()["detail"])


def fleet_shown(client: FlaskClient) -> FleetBody:
    """Return the fleet that its page shows to the client."""
    shown: list[dict[str, Any]] = []

    def keep(_app: Flask, context: dict[str, Any], **_: object) -> None:
        shown.append(context)

    with template_rendered.connected_to(keep, client.application):
        assert client.get("/fleet").status_code == 200
    [context] = shown
    body = context["body"]
    assert isinstance(body, FleetBody)
    return body


class CompiledTemplates(BytecodeCache):
    """Keeps each template that was compiled."""

    def __init__(self) -> None:
        self._compiled: dict[str, bytes] = {}

    def load_bytecode(self, bucket: CompiledTemplate) -> None:
        if bucket.key in self._compiled:
            bucket.bytecode_from_string(self._compiled[bucket.key])

    def dump_bytecode(self, bucket: CompiledTemplate) -> None:
        self._compiled[bucket.key] = bucket.bytecode_to_string()


@contextmanager
def compiled_once() -> Iterator[None]:
    """Compile each template and each route once; Werkzeug parses and compiles each route of each application."""
    compile_rule, compiled = Rule.compile, dict[tuple[object, ...], dict[str, Any]]()

    def compile_route(rule: Rule) -> None:
        key = (rule.rule, rule.merge_slashes, repr(rule.defaults))
        if key in compiled:
            vars(rule).update(compiled[key])
        else:
            compile_rule(rule)
            compiled[key] = {name: vars(rule)[name] for name in _COMPILED}
        rule._build, rule._build_unknown = (
            MethodType(build.__func__, rule)  # type: ignore[attr-defined]
            for build in (rule._build, rule._build_unknown)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Flask.jinja_options, "bytecode_cache", CompiledTemplates())
        patch.setattr(Rule, "compile", compile_route)
        yield


_COMPILED: Final = ("_parts", "_trace", "_converters", "arguments", "_build", "_build_unknown")
"""What Werkzeug makes of a route."""


def give_up(store: JobStore, image: ImageRecord, attempt: int = 0) -> None:
    """Record that an image is given up, as the controller does."""
    result = failed(image, attempt=attempt).model_copy(update={"recorded_at": NOW, "attempts": 5})
    DeadLetterStore(store).put_each([result])
    assert store.put_failed(result)


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
