"""Events: images that belong together, such as a burst of a camera or the slides of a patient, and their label."""

import json
import pickle  # nosec B403 (only rows that this process has written)
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from fleetsight_client.api import FleetsightClientError
from fleetsight_client.decisions import MinScores
from fleetsight_client.rows import ResultRow

T = TypeVar("T")

EVENT_COLUMNS: Final[Mapping[str, type]] = {  # `n` is the number of images of the event
    "event_id": str,
    "event_label": str,
    "event_score": float,
    "n": int,
    "event_decision": str,
}

FOLDER: Final = "folder"
TIME_COLUMN: Final = "taken_at"
SHOWN_EVENTS: Final = 10

_GAP: Final = re.compile(r"(\d+)([smh])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600}

_TABLES: Final = (
    "CREATE TABLE images (at INTEGER PRIMARY KEY, key TEXT, time REAL, name TEXT, top TEXT, image BLOB)",
    "CREATE TABLE members (at INTEGER PRIMARY KEY, event INTEGER)",
    "CREATE TABLE events (event INTEGER PRIMARY KEY, columns TEXT)",
    "BEGIN",
)


class GroupingError(FleetsightClientError):
    """Raised when `--group-by` cannot be followed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """What the images of an event have in common.

    Attributes:
        keys: `folder`, and names of further columns, with equal values.
        gap_seconds: longest time between two images of an event; None without times.
    """

    keys: Sequence[str]
    gap_seconds: int | None = None

    @classmethod
    def parse(cls, text: str, columns: Collection[str]) -> "Grouping":
        """Return the grouping of a text such as `folder,60s` or `patient`; `columns` are the further columns.

        Raises:
            GroupingError: it names an unknown column, or has a time without the column `taken_at`.
        """
        keys, gap = list[str](), None
        for part in filter(None, (each.strip() for each in text.split(","))):
            if found := _GAP.fullmatch(part):
                gap = int(found[1]) * _SECONDS[found[2]]
            elif part == FOLDER or part in columns:
                keys.append(part)
            else:
                raise GroupingError(
                    f"--group-by {part} is no column: name folder, a time such as 60s, or a column of --manifest"
                )
        if not keys and gap is None:
            raise GroupingError("--group-by is empty: name folder, a time such as 60s, or a column of --manifest")
        if FOLDER in keys and FOLDER in columns:
            raise GroupingError("--group-by folder may be the files' folder or a column: rename the column")
        if gap is not None and TIME_COLUMN not in columns:
            raise GroupingError(f"--group-by with a time needs --columns {TIME_COLUMN}")
        return cls(keys, gap)

    def key_of(self, row: ResultRow) -> str | None:
        """Return what the images of an event have in common, or None if the image does not have all of it."""
        folder, _, _ = row.filename.rpartition("/")
        values = [folder if key == FOLDER else row.further.get(key) for key in self.keys]
        return None if None in values else json.dumps(values)

    def follows(self, time: float | None, before: float | None) -> bool:
        """Return whether an image with the same key belongs to the event of the image before it."""
        if self.gap_seconds is None:
            return True
        return time is not None and before is not None and time - before <= self.gap_seconds


@dataclass
class Event:
    """The images of an event; its label is the one with the highest mean score, the first of equals.

    Images without a label have no part in the mean. A label that an image does not list, beyond its best ones, counts
    as 0 there.
    """

    id: str
    images: int = 0
    labelled: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, top: Sequence[tuple[str, float]]) -> None:
        """Add an image with its labels and scores; none if it has no label."""
        self.images += 1
        self.labelled += bool(top)
        for label, score in top:
            self.sums[label] = self.sums.get(label, 0.0) + score

    def columns(self, scores: MinScores) -> dict[str, object]:
        """Return the event's columns, by the scores from which labels count."""
        label = min(self.sums, key=lambda each: (-self.sums[each], each), default=None)
        score = None if label is None else round(self.sums[label] / self.labelled, 6)
        decision = scores.decision(label, score)
        return dict(zip(EVENT_COLUMNS, (self.id, label, score, self.images, decision), strict=True))


def seconds_of(row: ResultRow) -> float | None:
    """Return the local time of an image in seconds, or None if it has none."""
    try:
        return datetime.fromisoformat(str(row.further.get(TIME_COLUMN))[:19]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


@dataclass
class Events:
    """Groups rows; counts the events and their labels.

    Attributes:
        count: events.
        labels: events by decision.
        scores: from which labels count.
    """

    grouping: Grouping
    scores: MinScores = field(default_factory=MinScores)
    count: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def group(self, rows: Iterable[tuple[T, ResultRow]]) -> Iterator[tuple[T, ResultRow]]:
        """Yield rows in their order with the columns of their event.

        They wait in a temporary database of this process, which SQLite removes, so that memory does not grow.
        """
        with closing(sqlite3.connect("", isolation_level=None)) as base:
            for statement in _TABLES:
                base.execute(statement)
            for at, (item, row) in enumerate(rows):
                top = [(pair["label"], pair["score"]) for pair in row.body.get("top") or () if row.status == "done"]
                values = (self.grouping.key_of(row), seconds_of(row), row.filename, json.dumps(top))
                image = pickle.dumps((item, row))
                base.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)", (at, *values, image))
            self._find(base)
            for image, columns in base.execute(
                "SELECT image, columns FROM images JOIN members USING (at) JOIN events USING (event) ORDER BY at"
            ):
                item, row = pickle.loads(image)  # noqa: S301  # nosec B301 (written above, by this process)
                yield item, replace(row, further={**row.further, **json.loads(columns)})

    def _find(self, base: sqlite3.Connection) -> None:
        """Give each image its event."""
        event: Event | None = None
        before: tuple[str | None, float | None] = None, None
        base.execute("CREATE INDEX images_in_order ON images (key, time IS NULL, time, name)")
        for at, key, time, name, top in base.execute(
            "SELECT at, key, time, name, top FROM images ORDER BY key, time IS NULL, time, name"
        ):
            if event is None or key is None or key != before[0] or not self.grouping.follows(time, before[1]):
                self._finish(base, event)
                event = Event(name)
            event.add(json.loads(top))
            before = key, time
            base.execute("INSERT INTO members VALUES (?, ?)", (at, self.count))
        self._finish(base, event)

    def _finish(self, base: sqlite3.Connection, event: Event | None) -> None:
        if event is not None:
            columns = event.columns(self.scores)
            base.execute("INSERT INTO events VALUES (?, ?)", (self.count, json.dumps(columns)))
            self.count += 1
            if columns["event_decision"] is not None:
                self.labels[str(columns["event_decision"])] += 1

    def sentences(self) -> Iterator[str]:
        """Yield the number of events, and their most frequent labels."""
        yield f"Events: {self.count:,}."
        yield from (f"Events with {label}: {count:,}." for label, count in self.labels.most_common(SHOWN_EVENTS))
