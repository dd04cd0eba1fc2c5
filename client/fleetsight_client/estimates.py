"""What a classification would take, before anything is sent: files, bytes, dates, time and cost."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from fleetsight_client.folders import MISSING_SIZE, FoundFile
from fleetsight_client.journal_file import state_folder
from fleetsight_client.photos import PhotoError, is_doubtful, pillow, read_photo

MIN_RATE_BYTES: Final = 1_000_000
MIN_RATE_SECONDS: Final = 0.5
"""A shorter upload says nothing about the rate."""

SHOWN_SUFFIXES: Final = 6


def note_upload_rate(url: str, sent_bytes: int, seconds: float) -> None:
    """Remember the rate of an upload to a server, for estimates, if the folder of journals can be written."""
    if sent_bytes < MIN_RATE_BYTES or seconds < MIN_RATE_SECONDS:
        return
    file = state_folder() / "upload-rates.json"
    rates = {**_rates(file), url: sent_bytes / seconds}
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_text(json.dumps(rates), encoding="utf-8")
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def upload_rate(url: str) -> float | None:
    """Return the bytes per second of the last long upload to a server, or None before the first."""
    rate = _rates(state_folder() / "upload-rates.json").get(url)
    return rate if isinstance(rate, float) and math.isfinite(rate) and rate > 0 else None


def _rates(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass
class Estimate:
    """What is known of files that would be sent.

    Attributes:
        too_large: files that the server would refuse for their size; they are not counted otherwise.
        dates: oldest and newest local time of the photos, `undated` those without one and `doubtful` ones; None if
            they cannot be read.
    """

    files: int = 0
    bytes: int = 0
    missing: int = 0
    too_large: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    dates: tuple[str, str] | None = None
    undated: int | None = None
    doubtful: int = 0

    def sentences(
        self, rate: float | None, forecast: dict[str, Any] | None, later: Mapping[str, dict[str, Any] | None]
    ) -> Iterator[str]:
        """Yield the estimate in words, with the forecasts of jobs that may be finished later, by their time."""
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in self.suffixes.most_common(SHOWN_SUFFIXES))
        yield f"Images: {self.files:,} with {self.bytes / 1e6:,.1f} MB{f' ({kinds})' if kinds else ''}."
        for count, words in (
            (self.too_large, "Too large for the server"),
            (self.missing, "Named and not there"),
        ):
            if count:
                yield f"{words}: {count:,}."
        if not self.files:
            return
        if self.undated is None:
            yield "Dates: not read, since the package Pillow is missing: pip install 'fleetsight-client[photos]'."
        else:
            found = f"{self.dates[0][:10]} to {self.dates[1][:10]}" if self.dates else "none"
            wrong = f", {self.doubtful:,} that cannot be right" if self.doubtful else ""
            yield f"Dates: {found}{wrong}; {self.undated:,} without one."
        if rate is None:
            yield "Upload: unknown, since no upload to this server was measured yet."
        else:
            yield f"Upload: about {minutes(self.bytes / rate)} at {rate / 1e6:,.1f} MB/s, as last time."
        for when, by_then in {"": forecast, **later}.items():
            words = f"Classification{when and f' by {when}'}"
            if by_then is None:
                yield f"{words}: unknown, since no controller has reported the fleet."
            elif by_then["last_result_seconds"] is None:
                yield f"{words}: {by_then['text']}"
            else:
                seconds, dollars = float(by_then["last_result_seconds"]), float(by_then["dollars"])
                yield f"{words}: about {minutes(seconds)}, if sent at once, for {dollars:,.2f} US dollars."


def minutes(seconds: float) -> str:
    """Return a time in words, as exact as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} h"


def estimate_files(files: Iterable[FoundFile], folders: Sequence[Path], max_bytes: int, now: datetime) -> Estimate:
    """Return what is known of files."""
    can_read = _can_read_photos()
    found = Estimate(undated=0 if can_read else None)
    for file in files:
        path = folders[file.root] / os.fsdecode(file.path)
        if file.size == MISSING_SIZE or file.size > max_bytes:
            found.missing += file.size == MISSING_SIZE
            found.too_large += file.size > max_bytes
            continue
        found.files += 1
        found.bytes += file.size
        found.suffixes[path.suffix.lower().removeprefix(".") or "without suffix"] += 1
        if can_read:
            _add_date(found, path, now)
    return found


def _can_read_photos() -> bool:
    try:
        pillow("--columns")
    except PhotoError:
        return False
    return True


def _add_date(found: Estimate, path: Path, now: datetime) -> None:
    taken_at = read_photo(path).get("taken_at")
    if taken_at is None:
        found.undated = (found.undated or 0) + 1
    elif is_doubtful(taken_at, now):
        found.doubtful += 1
    else:
        found.dates = (
            (min(found.dates[0], taken_at), max(found.dates[1], taken_at)) if found.dates else (taken_at,) * 2
        )
