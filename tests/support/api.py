"""Requests to the API, and checks of its responses."""

from collections.abc import Callable
from io import BytesIO

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.jobs.models import Job

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
