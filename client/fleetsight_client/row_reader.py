"""Reads the row of each file of a classification: its result on the server, and what the files and the user know."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from fleetsight_client.api import ApiClient, RejectedError
from fleetsight_client.folders import MISSING_SIZE
from fleetsight_client.journal import Outcome
from fleetsight_client.lists import FileList
from fleetsight_client.photos import PhotoReader
from fleetsight_client.retries import PatientCalls
from fleetsight_client.rows import NOT_FOUND, NOT_SENT, ResultRow, row_of
from fleetsight_client.truth import Truth
from fleetsight_client.uploader import id_before

MAX_PAGE: Final = 500
"""Results that are read at a time."""


@dataclass(frozen=True)
class RowReader:
    """Makes the rows of files.

    Attributes:
        truth: the true labels, or None without any.
        files: the list that named the files, or None; rows have its further columns.
        photos: reads further columns from the files, or None.
    """

    client: ApiClient
    truth: Truth | None
    files: FileList | None
    photos: PhotoReader | None

    def rows(
        self, outcomes: Iterable[Outcome], calls: PatientCalls, page: int = MAX_PAGE
    ) -> Iterator[tuple[Outcome, ResultRow]]:
        """Yield files at rising positions with their results; reads each page of results once, one at a time.

        Images with a position are in the order of their positions, as the files are.
        """
        results = dict[str, _JobResults]()
        for outcome in outcomes:
            file, job_id = outcome.file, outcome.job_id
            truth = None if self.truth is None else self.truth.label(file)
            if outcome.rejected is not None:
                row = _unlabelled(outcome, truth, "rejected", outcome.rejected.code, outcome.rejected.message)
            elif not outcome.image_id:
                row = _unlabelled(outcome, truth, "rejected", NOT_SENT, "it was not sent")
            else:
                if job_id not in results:
                    results[job_id] = _JobResults(self.client, calls, job_id, page)
                found = results[job_id].find(outcome.image_id)
                if found is None:
                    gone = "the server has no such image any more"
                    row = _unlabelled(outcome, truth, "failed", NOT_FOUND, gone)
                else:
                    row = row_of(file.name, job_id, found, truth)
            cells = {} if self.files is None else self.files.cells(os.fsencode(file.path))
            found_in_photo = {} if self.photos is None else self.photos.read(file)
            yield outcome, replace(row, further={**cells, **found_in_photo})


def _unlabelled(outcome: Outcome, truth: str | None, status: str, code: str, message: str) -> ResultRow:
    """Return the row of a file without an image on the server."""
    return ResultRow(
        image_id=outcome.image_id or None,
        filename=outcome.file.name,
        status=status,
        error_code=code,
        error_message=message,
        bytes=None if outcome.file.size == MISSING_SIZE else outcome.file.size,
        truth=truth,
        job_id=outcome.job_id or None,
    )


class _JobResults:
    """The results of a job in the order of their ids, read a page at a time; leaves out pages between wanted ones."""

    def __init__(self, client: ApiClient, calls: PatientCalls, job_id: str, page: int) -> None:
        self._client, self._calls, self._job_id, self._limit = client, calls, job_id, page
        self._after: str | None = ""
        self._page: list[dict[str, Any]] = []
        self._at = 0

    def find(self, image_id: str) -> dict[str, Any] | None:
        """Return the result of an image, or None if the job does not have it; ids rise from call to call."""
        while True:
            while self._at < len(self._page):
                result = self._page[self._at]
                if result["image_id"] > image_id:
                    return None
                self._at += 1
                if result["image_id"] == image_id:
                    return result
            if self._after is None:
                return None
            after = max(self._after, id_before(image_id))
            try:
                self._page, self._after = self._calls.call(
                    partial(self._client.results_page, self._job_id, after, self._limit)
                )
            except RejectedError as error:
                if error.status != 404:
                    raise
                self._page, self._after = [], None
            self._at = 0
