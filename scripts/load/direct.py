"""One job with images that go straight to the bucket: forms are asked for in slices, filled, and committed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from core.images import ImageRejectedError, sniff
from scripts.client import ApiError, DirectFile, OfferedFile
from scripts.load.batches import ApiLoad
from scripts.load.target import Target

HEAD_BYTES = 1024
"""Of a file, from which its type is read."""

UNKNOWN_TYPE = "application/octet-stream"

_Answer = TypeVar("_Answer")


@dataclass(kw_only=True)
class DirectLoad(ApiLoad):
    """Sends `pictures` into one job by way of the bucket, with `clients` requests at once.

    Attributes:
        target: the system; decides which hosts a form may be sent to.
    """

    target: Target
    _admitted: set[str] = field(default_factory=set, init=False)

    def upload(self, job_id: str, files: Sequence[Path]) -> None:
        """Send one slice; what is not accepted has its verdict with that.

        Raises:
            TargetError: when a form leads to a host that may not be loaded.
        """
        wanted = [DirectFile(file.name, file.stat().st_size, content_type(file)) for file in files]
        try:
            offer = self._timed(lambda: self.client.offer_uploads(job_id, wanted))
        except ApiError as error:
            self.figures.judged("failed", f"a slice of {len(files)}: {error}", len(files))
            return
        for name, reason in offer.rejected:
            self.figures.judged("failed", f"{name}: {reason}")
        faults = {files[form.index].name: self._post(form, files[form.index]) for form in offer.files}
        if offer.files:
            self._commit(job_id, offer.upload_id, len(offer.files), faults)

    def _post(self, form: OfferedFile, file: Path) -> str | None:
        """Send one form; return what went wrong, if anything did."""
        if form.url not in self._admitted:
            self.target.check(form.url)
            self._admitted.add(form.url)
        data = file.read_bytes()
        try:
            self._timed(lambda: self.client.send_form(form.url, form.fields, file.name, data))
        except ApiError as error:
            return str(error)
        return None

    def _commit(self, job_id: str, upload_id: str, count: int, faults: dict[str, str | None]) -> None:
        try:
            outcome = self._timed(lambda: self.client.commit_upload(job_id, upload_id))
        except ApiError as error:
            self.figures.judged("failed", f"a slice of {count}: {error}", count)
            return
        self._accepted.update(outcome.accepted)
        for name, reason in outcome.rejected:
            self.figures.judged("failed", f"{name}: {faults.get(name) or reason}")

    def _timed(self, call: Callable[[], _Answer]) -> _Answer:
        began = self.clock()
        answer = call()
        self.figures.timed(self.clock() - began)
        return answer


def content_type(file: Path) -> str:
    """Return the type of an image file by its first bytes; one that is none is declared as mere bytes."""
    with file.open("rb") as content:
        head = content.read(HEAD_BYTES)
    try:
        return f"image/{sniff(head).lower()}"
    except ImageRejectedError:
        return UNKNOWN_TYPE
