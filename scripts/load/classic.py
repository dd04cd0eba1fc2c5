"""The classic contract as its clients speak it: a connection for each image, and a wait for as long as it takes."""

import http.client
import secrets
import time
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

from scripts.load.figures import Figures, Verdict
from scripts.load.pictures import Pictures
from scripts.load.target import Target

NAMED_FIELD = "inputFile"
"""Its answers begin with the filename, without its extension, and a colon."""


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class ClassicClient:
    """Asks about one image at a time; threads may share it.

    Attributes:
        target: the system that it asks.
        path: at which address.
        field: in which field of the form.
        patience_seconds: after how much silence an image counts as lost.
        token: where people sign in.
    """

    target: Target
    path: str
    field: str
    patience_seconds: float
    token: str | None = dataclass_field(default=None, repr=False)

    def judge(self, file: Path, pictures: Pictures, figures: Figures) -> None:
        """Ask about one image, and note what came of it."""
        data = file.read_bytes()
        began = time.monotonic()
        try:
            answer = self.ask(file.name, data)
        except (OSError, http.client.HTTPException) as error:
            figures.judged("lost", f"{file.name}: {error!r}")
            return
        figures.timed(time.monotonic() - began)
        figures.judged(*verdict(answer, self.field, file.name, pictures.expected.get(file.name)))

    def ask(self, name: str, data: bytes) -> Answer:
        """Send one image on a connection of its own; return the answer.

        Raises:
            OSError: when there is none.
            HTTPException: when it is no HTTP.
        """
        kind = http.client.HTTPSConnection if self.target.secure else http.client.HTTPConnection
        connection = kind(self.target.host, self.target.port, timeout=self.patience_seconds)
        boundary = secrets.token_hex(16)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Connection": "close"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request("POST", self.path, form(boundary, self.field, name, data), headers)
            reply = connection.getresponse()
            return Answer(reply.status, reply.getheader("Content-Type", ""), reply.read())
        finally:
            connection.close()


def form(boundary: str, field: str, name: str, data: bytes) -> bytes:
    """Return a form (RFC 7578) with one file."""
    quoted = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode()


def verdict(answer: Answer, field: str, name: str, expected: str | None) -> tuple[Verdict, str]:
    """Return what an answer is worth, and what is wrong with it, if anything is; no `expected`: any label will do."""
    text = answer.body.decode(errors="replace")
    if answer.status != 200:
        return "failed", f"{name}: {answer.status} {text[:200]}"
    if fault := breach(answer.content_type, text, field, name):
        return "failed", f"{name}: {fault}: {text[:200]!r}"
    label = text.rpartition(":")[2]
    if expected is None:
        return "answered", ""
    return ("right", "") if label == expected.replace(":", " ") else ("wrong", f"{name}: {label!r}, not {expected!r}")


def breach(content_type: str, text: str, field: str, name: str) -> str | None:
    """Return in what an answer with status 200 breaks the contract, or None."""
    before, colon, label = text.rpartition(":")
    if not content_type.startswith("text/plain"):
        return f"{content_type or 'no type'} is not text/plain"
    if not label or label != label.strip():
        return "no label, or space around it"
    if field == NAMED_FIELD:
        return None if before == Path(name).stem else "it does not begin with the filename"
    return "a colon in the label" if colon else None
