"""A client of the classic contract: a connection for each image, which waits for the label."""

import http.client
import secrets
import time
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

from scripts.load.inputs import LoadImages, LoadTarget
from scripts.load.metrics import ImageVerdict, LoadMetrics

NAMED_FIELD = "inputFile"
"""The answers to this field begin with the filename without its extension, and a colon."""


@dataclass(frozen=True)
class ClassicAnswer:
    """The answer of a server."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class ClassicClient:
    """Classifies one image per request; threads may share it.

    Attributes:
        target: the system.
        path: of the requests.
        field: of the form.
        patience_seconds: after this time without an answer, an image is lost.
        token: if users sign in.
    """

    target: LoadTarget
    path: str
    field: str
    patience_seconds: float
    token: str | None = dataclass_field(default=None, repr=False)

    def classify(self, file: Path, images: LoadImages, metrics: LoadMetrics) -> None:
        """Classify one image, and record the verdict."""
        data = file.read_bytes()
        started = time.monotonic()
        try:
            answer = self.post(file.name, data)
        except (OSError, http.client.HTTPException) as error:
            metrics.record_verdict("lost", f"{file.name}: {error!r}")
            return
        metrics.record_time(time.monotonic() - started)
        metrics.record_verdict(*judge_answer(answer, self.field, file.name, images.expected.get(file.name)))

    def post(self, name: str, data: bytes) -> ClassicAnswer:
        """Send one image on a connection of its own; return the answer.

        Raises:
            OSError: there is no answer.
            HTTPException: the answer is not HTTP.
        """
        kind = http.client.HTTPSConnection if self.target.secure else http.client.HTTPConnection
        connection = kind(self.target.host, self.target.port, timeout=self.patience_seconds)
        boundary = secrets.token_hex(16)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Connection": "close"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request("POST", self.path, multipart_form(boundary, self.field, name, data), headers)
            reply = connection.getresponse()
            return ClassicAnswer(reply.status, reply.getheader("Content-Type", ""), reply.read())
        finally:
            connection.close()


def multipart_form(boundary: str, field: str, name: str, data: bytes) -> bytes:
    """Return a multipart form (RFC 7578) with one file."""
    quoted = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode()


def judge_answer(answer: ClassicAnswer, field: str, name: str, expected: str | None) -> tuple[ImageVerdict, str]:
    """Return the verdict of an answer, and its problem if it has one; without `expected` any label is right."""
    text = answer.body.decode(errors="replace")
    if answer.status != 200:
        return "failed", f"{name}: {answer.status} {text[:200]}"
    if fault := contract_violation(answer.content_type, text, field, name):
        return "failed", f"{name}: {fault}: {text[:200]!r}"
    label = text.rpartition(":")[2]
    if expected is None:
        return "answered", ""
    return ("right", "") if label == expected.replace(":", " ") else ("wrong", f"{name}: {label!r}, not {expected!r}")


def contract_violation(content_type: str, text: str, field: str, name: str) -> str | None:
    """Return how an answer with status 200 violates the contract, or None."""
    before, colon, label = text.rpartition(":")
    if not content_type.startswith("text/plain"):
        return f"{content_type or 'no type'} is not text/plain"
    if not label or label != label.strip():
        return "no label, or space around it"
    if field == NAMED_FIELD:
        return None if before == Path(name).stem else "it does not begin with the filename"
    return "a colon in the label" if colon else None
