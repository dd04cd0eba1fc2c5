"""True labels of a job's images: from a CSV file, from the names of folders, and the evaluation against them.

A user's file names images by a path or a filename. A line belongs to the image with the same path, or else to the
only image of which one path ends with the other: `day1/a.jpg` is `photos/day1/a.jpg`, but not `day2/a.jpg`.
"""

import csv
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import chain, islice
from typing import Final, Literal

from core.ids import ImageRef, is_id
from core.jobs.models import ImageRecord, Job, JobStatus, TrueLabel, TruthSource
from core.label_names import ClassNames, plain_label
from core.messages import ClassificationResult
from services.clock import utc_now
from services.errors import FleetsightError
from web_tier.auth.job_access import UserJobs
from web_tier.features.review.evaluation import Evaluation
from web_tier.http.parameters import MAX_LABEL, printable
from web_tier.results.export import csv_of, safe_cell, unescaped_cell
from web_tier.results.query import PAGE, ImageResult
from web_tier.results.services import current_result_services

MAX_TRUTH_BYTES: Final = 2 * 2**20
"""Largest file with true labels."""

MAX_TRUTH_ROWS: Final = 20_000
"""Lines of a file: writing them takes some seconds, in batches of 25."""

MAX_TRUTH_COLUMNS: Final = 1_000
"""Columns of a file that are searched for the image and its label; a line of 2 MB may have two million."""

SPARSE: Final = 10
"""If fewer than one in so many images of a job have a true label, only their results are read."""

_ID_COLUMNS: Final = frozenset({"image_id"})
_FILE_COLUMNS: Final = frozenset({"filename", "file name", "file", "path", "filepath", "file path", "image", "name"})
_LABEL_COLUMNS: Final = ("truth", "true label", "ground truth", "label", "class", "category")
"""Names of the column with the true label; an export of results has `label`, too, which is the model's."""

_SEPARATOR: Final = re.compile(r"sep=([^\r\n])[ \t]*\r?\n", re.IGNORECASE)
"""A first line by which people tell Excel what separates the cells."""

Reason = Literal["no image has this name", "several images have this name", "an earlier line has another label"]


class TruthFileError(FleetsightError):
    """Raised when a file with true labels cannot be read; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class TruthRow:
    """A line of a file: the name or the id of an image, and its true label; `line` is its number in the file."""

    line: int
    name: str
    label: str


@dataclass(frozen=True, slots=True)
class TruthFault:
    """A line that set no true label, and why."""

    line: int
    name: str
    reason: Reason


@dataclass
class TruthOutcome:
    """What a file or the names of folders say about the images of a job.

    Attributes:
        labels: true label by image id.
        faults: lines of a file that set none.
        without: images of the job without a folder, and lines without a label.
        unknown_classes: labels that are no class of the model; they are set all the same.
    """

    labels: dict[str, str] = field(default_factory=dict)
    faults: list[TruthFault] = field(default_factory=list)
    without: int = 0
    unknown_classes: tuple[str, ...] = ()


def parse_truth_file(data: bytes) -> Iterator[TruthRow]:
    """Yield the lines of a CSV file with a column for the image and one for its true label.

    The separator is a comma, a semicolon or a tab, or what the first line names, as in `sep=|`. A header is optional;
    without one, the first two columns count.

    Raises:
        TruthFileError: it is not such a file, or has more than `MAX_TRUTH_ROWS` lines.
    """
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise TruthFileError("the file is not UTF-8; save it as “CSV UTF-8” and try again") from error
    stated = _SEPARATOR.match(text)
    start = text[:4_096].lstrip("\r\n").partition("\n")[0]
    separator = stated[1] if stated else max(",;\t", key=start.count)
    reader = csv.reader(StringIO(text[stated.end() :] if stated else text, newline=""), delimiter=separator)
    try:
        skipped = stated is not None
        rows = ((reader.line_num + skipped, row) for row in reader if any(cell.strip() for cell in row))
        first = next(rows, None)
        if first is None:
            raise TruthFileError("the file is empty; send lines of a filename and its true label")
        columns = _columns(first[1])
        has_header = columns is not None
        name_at, label_at = columns or (0, 1)
        for count, (line, row) in enumerate(rows if has_header else chain([first], rows), 1):
            if count > MAX_TRUTH_ROWS:
                raise TruthFileError(f"the file has more than {MAX_TRUTH_ROWS:,} lines; send it in parts")
            name, label = (unescaped_cell(row[at].strip()) if at < len(row) else "" for at in (name_at, label_at))
            # As the filename of the image was: see `clean_filename`, which would also shorten an absolute path.
            yield TruthRow(line, "/".join(printable(part) for part in name.split("/")), clean_label(label))
    except csv.Error as error:
        raise TruthFileError(f"line {reader.line_num} is not CSV ({error}); save the file as CSV UTF-8") from error


def _columns(header: Sequence[str]) -> tuple[int, int] | None:
    """Return the places of the image and of the label in a header, or None if this line is no header."""
    names = [plain_label(cell) for cell in header[:MAX_TRUTH_COLUMNS]]
    ids = [at for at, name in enumerate(names) if name.replace(" ", "_") in _ID_COLUMNS]
    files = [at for at, name in enumerate(names) if name in _FILE_COLUMNS]
    labels = [names.index(name) for name in _LABEL_COLUMNS if name in names]
    if labels and (ids or files):
        return (ids or files)[0], labels[0]
    if ids or files or len(names) < 2:
        raise TruthFileError("the file needs two columns, such as filename and label")
    return None


def match_rows(rows: Iterable[TruthRow], images: Iterable[ImageRecord], classes: ClassNames) -> TruthOutcome:
    """Return the true labels that the lines of a file give to a job's images."""
    all_rows = list(rows)
    labelled = [row for row in all_rows if row.label]
    outcome = TruthOutcome(without=len(all_rows) - len(labelled))
    # Not line by line: in a job with the same filename in many folders, each line would be compared with each image.
    longer: dict[str, list[str]] = {_path(row.name): [] for row in labelled}
    depths = {path.count("/") for path in longer}
    ids, by_id = defaultdict[str, list[str]](list), set[str]()
    for image in images:
        path = _path(image.filename)
        by_id.add(image.ref.image_id)
        ids[path].append(image.ref.image_id)
        for end in _ends(path, depths):
            if end in longer and len(longer[end]) < 2:  # a line needs to know of two at most
                longer[end].append(image.ref.image_id)
    depths = {path.count("/") for path in ids}
    for row in labelled:
        path = _path(row.name)
        if is_id(row.name) and row.name in by_id:
            found = [row.name]
        elif path in ids:
            found = ids[path]
        else:
            found = longer[path] + [image_id for end in _ends(path, depths) for image_id in ids.get(end, ())[:2]]
        label = classes.respelled(row.label)
        if len(found) != 1:
            reason: Reason = "several images have this name" if found else "no image has this name"
            outcome.faults.append(TruthFault(row.line, row.name, reason))
        elif outcome.labels.setdefault(found[0], label) != label:
            outcome.faults.append(TruthFault(row.line, row.name, "an earlier line has another label"))
    outcome.unknown_classes = _unknown(outcome.labels, classes)
    return outcome


def match_folders(images: Iterable[ImageRecord], classes: ClassNames) -> TruthOutcome:
    """Return as the true label of each image the name of the folder that contains it."""
    outcome = TruthOutcome()
    for image in images:
        folder = clean_label(_parts(image.filename)[-2]) if len(_parts(image.filename)) > 1 else ""
        if folder:
            outcome.labels[image.ref.image_id] = classes.respelled(folder)
        else:
            outcome.without += 1
    outcome.unknown_classes = _unknown(outcome.labels, classes)
    return outcome


def _unknown(labels: Mapping[str, str], classes: ClassNames) -> tuple[str, ...]:
    return tuple(sorted(label for label in {*labels.values()} if classes.is_unknown(label)))


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a path, at least one; the name of a file is never used as a path."""
    whole = unicodedata.normalize("NFC", name.replace("\\", "/"))  # macOS may store ä as two characters
    return tuple(part for part in whole.split("/") if part not in {"", "."}) or ("",)


def _path(name: str) -> str:
    """Return the parts of a path, each after a slash."""
    return "/" + "/".join(_parts(name))


def _ends(path: str, depths: Collection[int]) -> Iterator[str]:
    """Yield the last parts of a path, but not all of them, in each number of parts that is one of `depths`."""
    at, depth = path.rfind("/"), 1
    while at > 0:
        if depth in depths:
            yield path[at:]
        at, depth = path.rfind("/", 0, at), depth + 1


def clean_label(raw: str) -> str:
    """Return a user's text as a true label, at most 200 characters, or an empty string."""
    return " ".join(printable(raw)[:MAX_LABEL].split())


def class_names(job: Job) -> ClassNames:
    """Return the names of the classes of a job's model."""
    return ClassNames(current_result_services().class_labels(job.model).labels)


def read_evaluation(jobs: UserJobs, status: JobStatus) -> Evaluation:
    """Return the evaluation of a job's predictions against the true labels that its user has set."""
    job_id = status.job.job_id
    truths = {key: truth.label for key, truth in jobs.truths(job_id).items()}
    is_sparse = len(truths) * SPARSE < status.accepted

    def pages() -> Iterator[Collection[ClassificationResult]]:  # memory must not grow with the job
        ids = iter(sorted(truths) if is_sparse else (image.ref.image_id for image in jobs.images(job_id)))
        while some := list(islice(ids, PAGE)):
            refs = [ImageRef(job_id, image_id) for image_id in some]
            found = jobs.results_of(refs) if is_sparse else jobs.results(job_id, some[0], some[-1])
            yield found.values()

    results = (result for found in pages() for result in found)
    labels = ((truths[each.image_id], each.label) for each in results if each.image_id in truths)
    pairs = ((truth, label) for truth, label in labels if label is not None)
    return Evaluation.from_pairs(pairs, class_names(status.job))


def set_truths(jobs: UserJobs, job_id: str, labels: Mapping[str, str], source: TruthSource) -> int:
    """Set true labels of images of a job, by image id; return how many were not so before.

    Only changes are written, so that repeating a large file costs little.

    Raises:
        NotFoundError: the job was deleted.
    """
    before, now = jobs.truths(job_id), utc_now()
    changed = {
        key: TrueLabel(label, now, source)
        for key, label in labels.items()
        if key not in before or before[key].label != label
    }
    if changed:
        jobs.set_truths(job_id, changed)
    return len(changed)


def truth_lines(results: Iterable[ImageResult]) -> Iterator[str]:
    """Yield the header and a line for each image with a true label: a file that sets the same labels again."""
    labelled = ((result.record.filename, result.truth.label) for result in results if result.truth is not None)
    yield from csv_of([("filename", "label")])
    yield from csv_of(map(safe_cell, cells) for cells in labelled)
