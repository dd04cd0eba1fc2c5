"""Bodies in base64, JSON and forms: they are taken or refused by a 4xx, through the whole web tier over memory.

The first byte of an input is a number of `REQUESTS`, and 128 more if the rest is a body in chunked encoding as it
comes over the wire, which gunicorn's own parser reads.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import yaml
from gunicorn.config import Config as GunicornConfig
from gunicorn.http.parser import RequestParser
from pydantic import ValidationError
from werkzeug.exceptions import UnprocessableEntity

from core.config import parse_config
from core.ids import ImageRef
from core.jobs.models import Job
from core.jobs.store import JobStore
from core.messages import ClassificationResult, LabelScore, RequestMessage
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue
from tests.fuzz.targets import uploads
from tests.support.clocks import PlayedClock
from tests.support.jobs import put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.unsandboxed import inspect
from web_tier.app import create_app
from web_tier.results.waiter import ResultWaiter
from web_tier.uploads.request_body import Base64Image, decoded
from web_tier.uploads.single import JOB_NAME

JOB = "01KAH8Z9M5J6C0Q2V4T7W1X3YD"
JSON, FORM = "application/json", f"multipart/form-data; boundary={uploads.BOUNDARY}"

REQUESTS = (
    ("POST", "/api/v1/classify?wait=0", JSON),
    ("POST", "/classify", JSON),
    ("POST", "/inference/image", JSON),
    ("POST", "/api/v1/classify?wait=0", "image/png"),
    ("POST", "/api/v1/classify?wait=0", FORM),
    ("POST", f"/api/v1/jobs/{JOB}/images", FORM),
    ("POST", f"/api/v1/jobs/{JOB}/uploads", JSON),
    ("POST", "/api/v1/jobs", JSON),
    ("POST", "/api/v1/fleet/pause", JSON),
    ("PUT", "/api/v1/fleet/limits", JSON),
)

WORDS = (
    *(b'{"data":"', b'{"name":"', b"data:image/png;base64,", b"====", b"\\u0000", b"\\ud800", b'{"files":[{"name":"'),
    *(
        b'"bytes":',
        b'"content_type":"image/jpeg"',
        b'"keep":true',
        b'"min_workers":',
        b'"max_workers":',
        b'"reason":"',
    ),
    *(b"\r\n0\r\n\r\n", b"1\r\n", b"ffffffff\r\n", b"-1\r\n", b';x="', b"0\r\nContent-Length: 1\r\n\r\n"),
    *(b"1e999", b"-0", b"null", b"/9j/4AAQSkZJRg", b"iVBORw0KGgo", b"R0lGODlh", b"UklGR", b"Qk0", b"[[[[[[[["),
)


_CHUNKED = 128
_HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
_GUNICORN = GunicornConfig()
_ARRIVES_AT_ONCE = 1_000
"""Bytes."""


class _Connection:
    """Stands in for the client's socket, which is given up when its body makes no sense."""

    def settimeout(self, seconds: float) -> None:
        """Wait no longer than this."""

    def shutdown(self, how: int) -> None:
        """Read no more."""


class _AnsweringQueue(Queue):
    """The request queue and a fleet behind it that answers at once."""

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        requests = [RequestMessage.from_json(message.body) for message in messages]
        put_results(_STORE, *(_answer(ref) for request in requests for ref in request.refs))
        return []


class _ForgetfulBucket(Bucket):
    """A bucket that accepts every object and stores none."""

    def put(
        self, key: str, body: bytes | bytearray, content_type: str, tags: Mapping[str, str] | None = None
    ) -> None:
        """Accept an object."""

    def delete(self, key: str) -> None:
        """Do nothing."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Do nothing."""

    def exists(self, key: str) -> bool:
        return True


def _answer(ref: ImageRef) -> ClassificationResult:
    top = (LabelScore(label="stop sign", score=0.9),)
    return ClassificationResult(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="done",
        label="stop sign",
        score=0.9,
        top=top,
        worker="i-0f3a",
        attempts=1,
    )


def _values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((Path(__file__).parents[3] / "config.yaml").read_text(encoding="utf-8"))
    # Nothing is called; an attempt is refused at once.
    values["aws"]["endpoint_url"] = "http://127.0.0.1:1"
    return values


_TABLE = MemoryTable()
_STORE = JobStore(_TABLE)
_APP = create_app(
    parse_config(_values()),
    store=_STORE,
    input_bucket=_ForgetfulBucket(cast(Any, None), "memory"),
    request_queue=_AnsweringQueue(cast(Any, None), "memory"),
    inspect=inspect,
)
# A waiting request polls again at once, instead of twenty times a second.
_APP.extensions["fleetsight"].watch = ResultWaiter(_STORE, PlayedClock())
_CLIENT = _APP.test_client()


def seeds() -> Iterator[bytes]:
    for number, (_, path, kind) in enumerate(REQUESTS):
        yield bytes([number]) + _seed(path, kind)
        yield bytes([_CHUNKED + number]) + _in_chunks(_seed(path, kind))
    for data in ("", "data:,", " /9j/ 4AAQ=\n", "data:image/png;base64,AA=="):
        yield b"\x00" + json.dumps({"data": data}).encode()


def _in_chunks(body: bytes) -> bytes:
    """Return a body in two chunks, the last with an extension, and a trailer."""
    half = len(body) // 2
    first, second = body[:half], body[half:]
    return b"%x\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\nX-End: 1\r\n\r\n" % (len(first), first, len(second), second)


def _seed(path: str, kind: str) -> bytes:
    form = next(seed[1:] for seed in uploads.seeds() if seed[0])
    file = next(uploads.seeds())[1:]
    if kind == FORM:
        return form
    if kind != JSON:
        return file
    if path.endswith("/uploads"):
        return b'{"files": [{"name": "a.jpg", "bytes": 9, "content_type": "image/jpeg"}]}'
    image = {"name": "a.jpg", "data": base64.b64encode(file).decode()}
    bodies = {
        "jobs": {"name": "x", "keep": True},
        "pause": {"reason": "x"},
        "limits": {"min_workers": 0, "max_workers": 2},
    }
    return json.dumps(bodies.get(path.rpartition("/")[2], image)).encode()


def target(data: bytes) -> None:
    is_chunked, number = divmod((data[:1] or b"\0")[0], _CHUNKED)
    method, path, kind = REQUESTS[number % len(REQUESTS)]
    body = data[1:]
    _forget()
    if is_chunked:
        answer = _CLIENT.open(path, method=method, environ_overrides=_from_the_wire(body, kind))
    else:
        if kind == JSON:
            _check_base64(body)
        answer = _CLIENT.open(path, method=method, data=body, content_type=kind)
    assert answer.status_code < 500, f"{method} {path}: {answer.status_code} {answer.data[:500]!r}"
    json.loads(answer.data)


def _from_the_wire(chunks: bytes, kind: str) -> dict[str, Any]:
    """Return what gunicorn makes of a chunked body, with its connection, as the web tier gets it."""
    sent = _HEAD + chunks
    pieces = [sent[start : start + _ARRIVES_AT_ONCE] for start in range(0, len(sent), _ARRIVES_AT_ONCE)]
    request = next(RequestParser(_GUNICORN, iter(pieces), ("127.0.0.1", 1)))
    return {
        "CONTENT_TYPE": kind,
        "HTTP_TRANSFER_ENCODING": "chunked",
        "wsgi.input": request.body,
        "wsgi.input_terminated": True,
        "gunicorn.socket": _Connection(),
    }


def _forget() -> None:
    """Leave in the table one job to send images to, and those for single images, which the intake holds on to."""
    for key, item in list(_TABLE.items.items()):
        if not str(item.get("name")).startswith(JOB_NAME):
            _TABLE.items.pop(key, None)  # a thread of the last upload may delete its own item meanwhile
    _STORE.create(Job(JOB, "fuzzed", datetime(2026, 3, 1, tzinfo=UTC)))


def _check_base64(body: bytes) -> None:
    try:
        text = Base64Image.model_validate_json(body).data
        image = decoded(text)
    except (ValidationError, UnprocessableEntity):
        return
    assert decoded(base64.b64encode(image).decode()) == image
