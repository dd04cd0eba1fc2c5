"""Sends the files of a journal in slices, some at a time, so that no file becomes two images."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any, Final

from fleetsight_client.api import ApiClient, FleetsightClientError, JobFields, RejectedError, RejectedFile
from fleetsight_client.folders import MISSING_SIZE
from fleetsight_client.journal import CHANGED, UNFINISHED, Journal, ListedFile, Slice
from fleetsight_client.retries import PatientCalls, StoppedError

UPLOADERS: Final = 4
"""Slices that are sent at a time."""

SLICE_FILES: Final = ((500, 20), (5_000, 50), (50_000, 100))
"""Up to so many files, the files of a slice: few so that progress is visible, many so that requests cost little."""

MAX_SLICE_FILES: Final = 200
SLICE_BYTES: Final = 8 * 2**20
"""Bytes of a slice of more than one file on a slow line, and before the line is known."""

MAX_SLICE_BYTES: Final = 48 * 2**20
"""Bytes of a slice of more than one file, a large pack of the server; the uploaders hold about three copies of theirs
in memory."""

SLICE_SECONDS: Final = 10.0
"""Larger slices have what the line sends in this time: so much is sent again after a lost connection."""

MAX_TRIES: Final = 5
"""How often a file is sent that the server cannot store."""

PROGRESS_SECONDS: Final = 0.5

UNFINISHED_SECONDS: Final = 60.0
"""How long a watch waits for the rest of a file that was changed last so long ago; then the server decides on it."""

TAIL_BYTES: Final = 2**16
"""The last bytes of a file in which the mark of its end is searched: other data may follow it."""

SETTLE_POLLS: Final = 15
"""Polls, one a second, for images of a slice that the server has begun to accept."""

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PLACES: Final = 64
"""Places of an image in its pack: ids have the position of the pack, times this number, plus the place."""


class JobClosedError(FleetsightClientError):
    """Raised when the job `job_id` takes no more images: it was cancelled or deleted, or it has expired."""

    def __init__(self, job_id: str, detail: str) -> None:
        super().__init__(f"job {job_id} takes no more images: {detail}")
        self.job_id = job_id


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """The server's limits of a request."""

    max_image_bytes: int = 10 * 2**20
    max_files: int = 250
    max_request_bytes: int = 2**30
    direct_uploads: bool = False

    @classmethod
    def from_response(cls, limits: Mapping[str, Any]) -> "UploadLimits":
        """Return the limits that `GET /limits` answers; an older server does not have all of them."""
        usual = cls()
        return cls(
            int(limits.get("max_image_bytes") or usual.max_image_bytes),
            int(limits.get("max_files_with_key") or usual.max_files),
            int(limits.get("max_request_bytes") or usual.max_request_bytes),
            bool(limits.get("direct_uploads")),
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    """What became of a slice: image ids and rejections by position, files to send again, or that it was too large.

    `seconds` is the time until the server had answered; 0 if it is not known.
    """

    slice: Slice
    outcome: Mapping[int, str | RejectedFile] = field(default_factory=dict)
    again: tuple[int, ...] = ()
    digests: Mapping[int, bytes] = field(default_factory=dict)
    """Of the contents that the server has now, by position, if the command watches."""
    is_too_large: bool = False
    seconds: float = 0.0


@dataclass
class Uploader:
    """Sends the files that are listed in the journal.

    Attributes:
        name: of the job, if one is created.
        keep: whether the job keeps its images.
        model: name of the job's model, or None for the server's choice.
        fields: further fields of the job.
        progressed: called twice a second and after each slice.
        shrink: returns what is sent of a file's content.
        watches: whether files that changed since they were listed are listed again.
        missed: number of these files.
    """

    client: ApiClient
    journal: Journal
    calls: PatientCalls
    limits: UploadLimits
    name: str
    keep: bool = False
    model: str | None = None
    progressed: Callable[[], None] = lambda: None
    shrink: Callable[[bytes], bytes] = bytes
    watches: bool = False
    fields: JobFields = field(default_factory=JobFields)
    missed: int = field(default=0, init=False)
    sent_bytes: int = field(default=0, init=False)
    """Size of the files that were sent, but for rejected ones, of which some were only too large or missing."""
    _slice_bytes: int = field(default=SLICE_BYTES, init=False)
    _abandoned: threading.Event = field(default_factory=threading.Event, init=False)
    _trace_id: str = field(default_factory=lambda: os.urandom(16).hex(), init=False)

    def run(self) -> None:
        """Send everything; slices whose outcome is unknown come first, under their first keys.

        Raises:
            StoppedError: the user has stopped the command; slices that were on their way are recorded.
            GaveUpError: the server does not answer, is busy for too long, or the quota is used up.
            JobClosedError: the job takes no more images.
            ApiError: the server rejects the job or a request for good.
        """
        self._abandoned.clear()
        self._slice_bytes = SLICE_BYTES
        job, job_id = self._job()
        counts = self.journal.counts()
        total = sum(counts.values())
        most = next((files for up_to, files in SLICE_FILES if total < up_to), MAX_SLICE_FILES)
        most, most_bytes = min(most, self.limits.max_files), self.limits.max_request_bytes // 2
        waiting = [self.journal.slice(number) for number in self.journal.unknown_slices()]
        pending = set[Future[_Sent]]()
        with ThreadPoolExecutor(UPLOADERS, thread_name_prefix="upload") as threads:
            try:
                while not self.calls.stop.is_set():
                    while len(pending) < UPLOADERS:
                        size = min(self._slice_bytes, most_bytes)
                        part = (
                            waiting.pop()
                            if waiting
                            else self.journal.begin_slice(
                                job, job_id, most, size, is_direct=self.limits.direct_uploads
                            )
                        )
                        if part is None:
                            break
                        pending.add(threads.submit(self._send, part, self.journal.counts()["listed"]))
                    if not pending:
                        return
                    for each in wait(pending, PROGRESS_SECONDS, FIRST_COMPLETED).done:
                        pending.discard(each)
                        waiting += self._settle(each.result())
                    self.progressed()
            finally:
                # After an error or a stop, what is on its way still counts.
                self._abandoned.set()
                for each in wait(pending).done:
                    if each.exception() is None:
                        self._settle(each.result())
        raise StoppedError("stopped")

    def _patient(self) -> PatientCalls:
        """Return the calls of a thread, which also end when another thread has failed."""
        return replace(self.calls, wait=self._wait)

    def _wait(self, seconds: float) -> bool:
        if self.calls.wait is not None:
            return self.calls.wait(seconds) or self._abandoned.is_set()
        until = self.calls.clock() + seconds
        while (left := until - self.calls.clock()) > 0:
            if self.calls.stop.wait(min(left, PROGRESS_SECONDS)) or self._abandoned.is_set():
                return True
        return self.calls.stop.is_set()

    def _job(self) -> tuple[int, str]:
        number, job_id, key = self.journal.job() or self.journal.begin_job()
        if job_id is None:
            fields: JobFields = {**self.fields, "model": self.model}
            try:
                job_id = self.calls.call(lambda: self.client.create_job(self.name, keep=self.keep, key=key, **fields))
            except RejectedError as error:
                if error.status == 422:  # such as for an unknown model: nothing to resume
                    self.journal.forget_job(number)
                raise
            self.journal.set_job_id(number, job_id)
        return number, job_id

    def _settle(self, sent: _Sent) -> list[Slice]:
        """Record the outcome of a slice; return the slices that replace one that was too large."""
        if sent.is_too_large:
            return self.journal.halve(sent.slice)
        if sent.seconds:
            in_time = SLICE_SECONDS / sent.seconds * sum(file.size for file in sent.slice.files)
            self._slice_bytes = int(min(max(SLICE_BYTES, in_time), MAX_SLICE_BYTES))
        rejected = {position for position, found in sent.outcome.items() if isinstance(found, RejectedFile)}
        self.sent_bytes += sum(file.size for file in sent.slice.files if file.position not in rejected)
        self.missed += self.journal.settle(sent.slice, sent.outcome, sent.again, sent.digests, relist=self.watches)
        return []

    def _send(self, part: Slice, remaining: int) -> _Sent:
        """Send a slice until its outcome is known; runs in a thread of its own and does not touch the journal."""
        contents = {file: self._read(file) for file in part.files}
        unsent: dict[int, str | RejectedFile] = {
            file.position: content for file, content in contents.items() if isinstance(content, RejectedFile)
        }
        files = [file for file in part.files if file.position not in unsent]
        positions = [file.position for file in files]
        form = [(file.name, self.shrink(content)) for file, content in contents.items() if isinstance(content, bytes)]
        digests = {
            file.position: sha256(content).digest()
            for file, content in contents.items()
            if self.watches and isinstance(content, bytes)
        }
        try:
            if not files:
                # Nothing is left to ask with: an earlier command may have sent the files as they were then.
                return _Sent(part, unsent | (self._accepted_before(part) if part.is_repeated else {}))
            call = partial(
                self.client.send_images_directly if part.is_direct else self.client.send_images,
                part.job_id,
                form,
                part.key,
                positions=[file.job_position for file in files],
                remaining=remaining,
                trace_id=self._trace_id,
            )
            began = self.calls.clock()
            sent = self._patient().call(call)
            seconds = self.calls.clock() - began
        except RejectedError as error:
            if error.status == 413 and len(files) > 1:
                return _Sent(part, is_too_large=True)
            if error.status == 413:
                return _Sent(part, unsent | {files[0].position: RejectedFile("too_large", error.detail)})
            if error.problem == "idempotency-key-reused":
                return self._reused(part, unsent, positions)
            if error.status == 404 or error.problem == "job-cancelled":
                raise JobClosedError(part.job_id, error.detail) from error
            raise
        return replace(_outcome_of(part, files, sent, unsent), digests=digests, seconds=seconds)

    def _read(self, file: ListedFile) -> bytes | RejectedFile:
        content = read_unchanged(file, self.limits.max_image_bytes)
        age = time.time() - file.mtime_ns / 1e9
        if self.watches and abs(age) < UNFINISHED_SECONDS and isinstance(content, bytes) and is_cut(content):
            return RejectedFile(UNFINISHED, "the file is still being written")
        return content

    def _reused(self, part: Slice, outcome: Mapping[int, str | RejectedFile], positions: list[int]) -> _Sent:
        """Return the outcome of a slice of which an earlier command has sent more files, which have changed since.

        That request has the key, so that this one added nothing. Its images count; the other files are sent again.
        """
        accepted = self._accepted_before(part)
        again = tuple(position for position in positions if position not in accepted)
        return _Sent(part, {**outcome, **accepted}, again)

    def _accepted_before(self, part: Slice) -> dict[int, str | RejectedFile]:
        """Return the images that the job has at the positions of a slice.

        The server may still be accepting them, so that they are polled until all exist, or for some seconds.
        """
        wanted = {file.job_position: file.position for file in part.files}
        first, last = min(wanted), max(wanted)
        found, calls = dict[int, str | RejectedFile](), self._patient()
        for poll in range(SETTLE_POLLS):
            if poll and self._wait(1.0):
                raise StoppedError("stopped")
            after: str | None = first_id(part.job_id, first)
            while after:
                images, after = calls.call(partial(self.client.results_page, part.job_id, after))
                ids = [str(image["image_id"]) for image in images]
                found |= {wanted[position_of(each)]: each for each in ids if position_of(each) in wanted}
                if ids and position_of(ids[-1]) > last:
                    break
            if len(found) == len(wanted):
                break
        return found


def _outcome_of(
    part: Slice,
    files: Sequence[ListedFile],
    sent: Mapping[int, str | RejectedFile],
    unsent: Mapping[int, str | RejectedFile],
) -> _Sent:
    """Return the outcome of a slice: what the server answered for each of `files`, and what was not sent."""
    outcome, again = dict(unsent), list[int]()
    unknown = RejectedFile("unavailable", "the server did not say what became of it")
    for index, file in enumerate(files):
        result = sent.get(index, unknown)
        if isinstance(result, RejectedFile) and result.may_pass and file.tries + 1 < MAX_TRIES:
            again.append(file.position)
        else:
            outcome[file.position] = result
    return _Sent(part, outcome, tuple(again))


def is_cut(content: bytes) -> bool:
    """Return whether a file is empty, or a JPEG or PNG without the mark of its end."""
    tail = content[-TAIL_BYTES:]
    is_cut_jpeg = content.startswith(b"\xff\xd8") and b"\xff\xd9" not in tail
    return not content or is_cut_jpeg or (content.startswith(b"\x89PNG") and b"IEND" not in tail)


def read_unchanged(file: ListedFile, max_bytes: int) -> bytes | RejectedFile:
    """Return the content of a file, or why it cannot be sent: it changed since it was listed, or is too large."""
    if file.size == MISSING_SIZE:
        return RejectedFile("no_file", "there is no such file")
    if file.size > max_bytes:
        return RejectedFile(
            "too_large", f"{file.size / 1e6:.1f} MB is more than the {max_bytes / 1e6:.1f} MB allowed: shrink it"
        )
    try:
        # O_NONBLOCK: a pipe that has replaced the file must not block.
        descriptor = os.open(file.path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as content:  # noqa: PTH123 (a descriptor)
            data = content.read(file.size + 1)
            now = os.fstat(descriptor)
    except FileNotFoundError:
        return RejectedFile(CHANGED, "the file was removed after it was listed")
    except OSError as error:
        return RejectedFile("unreadable", f"the file cannot be read: {error.strerror}")
    if (len(data), now.st_size, now.st_mtime_ns) != (file.size, file.size, file.mtime_ns):
        return RejectedFile(CHANGED, "the file was changed after it was listed: classify it again")
    return data


def first_id(job_id: str, position: int) -> str:
    """Return an id that is before that of the image at `position` of a job, in any pack, and after earlier packs."""
    first = max(0, position - _PLACES + 1)
    return _ulid(((_number(job_id) >> 80) << 80) | (_PLACES * first + position - first) << 48)


def id_before(image_id: str) -> str:
    """Return the last id before that of an image."""
    return _ulid(_number(image_id) - 1)


def position_of(image_id: str) -> int:
    """Return the position in the id of an image that was sent with one."""
    first, place = divmod((_number(image_id) >> 48) & 0xFFFF_FFFF, _PLACES)
    return first + place


def _number(ulid: str) -> int:
    number = 0
    for character in ulid:
        number = number * 32 + _CROCKFORD.index(character)
    return number


def _ulid(number: int) -> str:
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
