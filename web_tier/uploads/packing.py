"""Packs of an upload: which of its files are in each (`core/jobs/packs.py`)."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from core.images import ImageFormat
from core.jobs.pack_objects import MAX_PACK_BYTES
from core.jobs.packs import PackSizes
from web_tier.http.memory import MemoryLimiter
from web_tier.uploads.multipart import Upload
from web_tier.uploads.turns import TurnExecutor

File = TypeVar("File")
Result = TypeVar("Result")


@dataclass
class PackDivider(Generic[File]):
    """Divides the files of an upload into packs, in their order.

    An image with a position is in a pack only beside those at the positions before it, so that its id names its
    position.

    Attributes:
        so_far: a lower bound of the images that the job has had.
    """

    sizes: PackSizes
    so_far: int = 0
    _open: list[File] = field(default_factory=list)
    """The files of the pack that may get more."""
    _open_size: int = 1
    """Maximum files of the open pack."""
    _open_bytes: int = 0
    _next_position: int | None = None

    def add(self, file: File, size: int, position: int | None, left: int | None) -> list[list[File]]:
        """Add a file to a pack; return the packs that get no more files.

        `left` is as for `PackSizes.next_size`.
        """
        packs = list[list[File]]()
        if self._open and (position != self._next_position or self._open_bytes + size > MAX_PACK_BYTES):
            packs.append(self.take_open())
        if not self._open:
            self._open_size, self._open_bytes = self.sizes.next_size(max(self.so_far, position or 0), left), 0
        self._open.append(file)
        self._open_bytes += size
        self._next_position = None if position is None else position + 1
        self.so_far += 1
        if len(self._open) == self._open_size:
            packs.append(self.take_open())
        return packs

    def take_open(self) -> list[File]:
        """Return the files of the pack that could get more; the next file begins another one."""
        pack, self._open = self._open, []
        return pack


@dataclass(slots=True, eq=False)
class UploadedFile(Generic[Result]):
    """A file of an upload.

    Attributes:
        upload: without its data once this is stored or rejected.
        image_id: of its image, if that is the first of its pack.
        extension: of the format of the image, once it is inspected.
        result: once it is rejected or its pack is stored.
    """

    upload: Upload
    image_id: str
    extension: str = ""
    result: Result | None = None

    def drop_data(self) -> None:
        """Drop the data, so that its memory is free."""
        self.upload = replace(self.upload, data=b"")


@dataclass(eq=False)
class UploadPacker(Generic[Result]):
    """Inspects the files of one upload as they arrive, and stores packs of its images, in the order of the files.

    Attributes:
        owner: whose files these are: users take turns.
        memory: has the data of a file from its arrival until it is stored or rejected.
        inspect: returns the format of an image, or the rejection of a file.
        store: stores a pack of these images, drops their data, and returns the result of each.
    """

    owner: str
    executor: TurnExecutor
    memory: MemoryLimiter
    inspect: Callable[[Upload], ImageFormat | Result]
    store: Callable[[Sequence[UploadedFile[Result]]], Sequence[Result]]
    divider: PackDivider[UploadedFile[Result]]
    _files: list[UploadedFile[Result]] = field(default_factory=list)
    _packed: int = 0
    """How many of the files are rejected or in a pack."""
    _calls: list[Future[None]] = field(default_factory=list)
    _is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Remember the span of the caller: the thread of another upload may close a pack."""
        self._context = copy_context()

    def add(self, file: UploadedFile[Result]) -> None:
        """Add a file, whose data is acquired from the memory."""
        self._files.append(file)
        self._submit(partial(self._inspect, file))

    def close_pack(self) -> None:
        """Store the open pack, which gets no more images."""
        with self._lock:
            if not self._is_over and (pack := self.divider.take_open()):
                self._submit(partial(self._store, pack))

    def finish(self) -> list[Result]:
        """Store the last pack; return the result of each file, in order."""
        self._wait()
        self.close_pack()
        self._wait()
        return self.results()

    def results(self) -> list[Result]:
        """Return the results of the files that have one, in order."""
        return [file.result for file in self._files if file.result is not None]

    def abandon(self) -> None:
        """Store no more packs; release the data of all other files once no call works on it."""
        with self._lock:
            self._is_over = True
        for call in self._calls:
            call.exception()
        for file in [*self.divider.take_open(), *self._files[self._packed :]]:
            self._release(file)

    def _submit(self, call: Callable[[], None]) -> None:
        self._calls.append(self.executor.submit_in_turn(self.owner, partial(self._context.copy().run, call)))

    def _wait(self) -> None:
        """Wait for all calls, also for those that these submit."""
        for call in self._calls:
            call.result()

    def _inspect(self, file: UploadedFile[Result]) -> None:
        verdict = self.inspect(file.upload)
        if isinstance(verdict, ImageFormat):
            file.extension = verdict.extension
        else:
            file.result = verdict
        with self._lock:
            packs = self._pack_inspected()
        for pack in packs[1:]:
            self._submit(partial(self._store, pack))
        for pack in packs[:1]:
            self._store(pack)

    def _pack_inspected(self) -> list[list[UploadedFile[Result]]]:
        """Put the next files that are inspected into packs; return the packs that get no more images."""
        packs = list[list[UploadedFile[Result]]]()
        while not self._is_over and self._packed < len(self._files):
            file = self._files[self._packed]
            if not file.extension and file.result is None:
                break
            self._packed += 1
            if not file.extension:
                self._release(file)
                continue
            upload = file.upload
            packs += self.divider.add(file, upload.size, upload.position, upload.left)
        return packs

    def _store(self, pack: Sequence[UploadedFile[Result]]) -> None:
        size = sum(len(file.upload.data) for file in pack)
        try:
            for file, result in zip(pack, self.store(pack), strict=True):
                file.result = result
        finally:
            self.memory.release(size)

    def _release(self, file: UploadedFile[Result]) -> None:
        self.memory.release(len(file.upload.data))
        file.drop_data()
