"""Web tiers in the process of a test: requests to the API, and checks of its responses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from core.jobs.models import Job
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
