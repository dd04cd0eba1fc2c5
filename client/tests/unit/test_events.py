"""Events: which images belong together, their common label, and that their bursts stay together when sorted."""

import csv
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.tests.support.photos import photo
from client.tests.support.results_api import FAILED, Command, Photos, ResultsApi
from fleetsight_client.events import Events, Grouping, GroupingError
from fleetsight_client.rows import ResultRow

COLUMNS = {"taken_at", "patient"}


def row(name: str, time: str | None = None, *top: tuple[str, float], patient: str | None = None) -> ResultRow:
    body = {"top": [{"label": label, "score": score} for label, score in top]}
    further = {"taken_at": None if time is None else f"2026-05-01 {time}", "patient": patient}
    return ResultRow(filename=name, status="done" if top else "failed", further=further, body=body)


def grouped(how: str, rows: Sequence[ResultRow]) -> dict[str, tuple[object, ...]]:
    """Return the columns of each file's event."""
    found = Events(Grouping.parse(how, COLUMNS)).group(enumerate(rows))
    names = ("event_id", "event_label", "event_score", "n")
    return {each.filename: tuple(each.further[name] for name in names) for _, each in found}


def test_a_burst_has_the_label_with_the_highest_mean() -> None:
    rows = [
        row("a/3.jpg", "06:00:50", ("fox", 0.6), ("cat", 0.4)),
        row("a/1.jpg", "06:00:00", ("cat", 0.9), ("fox", 0.1)),
        row("a/2.jpg", "06:00:30", ("fox", 0.55), ("cat", 0.45)),
        row("a/4.jpg", "06:01:20"),
        row("b/1.jpg", "06:00:10", ("elk", 0.7)),
        row("a/5.jpg", "06:02:21+02:00", ("fox", 1.0)),
        row("a/6.jpg", None, ("fox", 0.8)),
        row("a/7.jpg", None),
    ]
    burst = ("a/1.jpg", "cat", 0.583333, 4)
    assert grouped("folder,60s", rows) == {
        **{f"a/{number}.jpg": burst for number in (3, 1, 2, 4)},
        "b/1.jpg": ("b/1.jpg", "elk", 0.7, 1),
        "a/5.jpg": ("a/5.jpg", "fox", 1.0, 1),
        "a/6.jpg": ("a/6.jpg", "fox", 0.8, 1),
        "a/7.jpg": ("a/7.jpg", None, None, 1),
    }
    assert len({each[0] for each in grouped("1m", rows).values()}) == 4
    assert [each[3] for each in grouped("folder", rows).values()] == [7, 7, 7, 7, 1, 7, 7, 7]


def test_images_of_a_column_have_one_label_and_an_empty_cell_is_no_group() -> None:
    rows = [
        row("1", None, ("b", 0.5), ("a", 0.5), patient="x"),
        row("2", None, ("a", 0.5), ("b", 0.5), patient="x"),
        row("3", None, ("b", 0.9)),
        row("4", None, ("b", 0.9)),
    ]
    assert grouped("patient", rows) == {
        **dict.fromkeys("12", ("1", "a", 0.5, 2)),
        **{name: (name, "b", 0.9, 1) for name in "34"},
    }


@given(seconds=st.lists(st.integers(0, 3_000), max_size=40), gap=st.integers(0, 90), seed=st.integers())
def test_events_do_not_depend_on_the_order_and_split_at_each_longer_gap(
    seconds: list[int], gap: int, seed: int
) -> None:
    times = [f"{each // 3_600:02}:{each % 3_600 // 60:02}:{each % 60:02}" for each in sorted(seconds)]
    rows = [row(f"{at:03}", time, ("cat", 0.5)) for at, time in enumerate(times)]
    found = grouped(f"{gap}s", rows)
    ordered = sorted(seconds)
    longer = [after - before > gap for before, after in pairwise(ordered)]
    assert len({each[0] for each in found.values()}) == sum(longer) + bool(seconds)
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert list(grouped(f"{gap}s", shuffled)) == [each.filename for each in shuffled]
    assert grouped(f"{gap}s", shuffled) == found


@pytest.mark.parametrize(
    ("how", "columns", "reason"),
    [
        ("site", COLUMNS, "--group-by site is no column"),
        ("60", COLUMNS, "--group-by 60 is no column"),
        (" , ", COLUMNS, "is empty"),
        ("folder,60s", {"patient"}, "needs --columns taken_at"),
        ("folder", {"folder"}, "rename the column"),
    ],
)
def test_a_wrong_grouping_is_refused(how: str, columns: set[str], reason: str) -> None:
    with pytest.raises(GroupingError, match=reason):
        Grouping.parse(how, columns)


def test_bursts_stay_together_in_the_folders_of_labels(command: Command, photos: Photos, tmp_path: Path) -> None:
    pictures = [photo(details={0x9003: f"2026:05:01 06:00:{second:02}"}) for second in (0, 5, 30)]
    folder, out = photos({f"{at}.jpg": content for at, content in enumerate(pictures)}), tmp_path / "r.csv"
    options = ("--columns", "taken_at", "--group-by", "10s", "--sort-into", tmp_path / "s", "--out", out)
    done = command("classify", folder, *options)
    assert done.exit_code == 0, done.output
    with out.open(newline="", encoding="utf-8") as lines:
        found = list(csv.DictReader(lines))
    assert [(each["event_id"], each["n"]) for each in found] == [("0.jpg", "2"), ("0.jpg", "2"), ("2.jpg", "1")]
    assert [*found[0]][-5:] == ["event_id", "event_label", "event_score", "n", "event_decision"]
    assert "Events: 2." in done.stderr
    assert len(list((tmp_path / "s").rglob("*.jpg"))) == 3


def test_a_failed_image_of_a_burst_is_sorted_as_failed(command: Command, photos: Photos, tmp_path: Path) -> None:
    folder = photos({"a/1.jpg": b"cat", "a/2.jpg": b"cat 2", "a/3.jpg": b"dog", "a/4.jpg": FAILED, "b/5.jpg": b"dog"})
    assert command("classify", folder, "--group-by", "folder", "--sort-into", tmp_path / "s").exit_code == 1
    found = sorted(str(each.relative_to(tmp_path / "s")) for each in (tmp_path / "s").rglob("*.jpg"))
    assert found == ["_failed/a/4.jpg", "cat/a/1.jpg", "cat/a/2.jpg", "cat/a/3.jpg", "dog/b/5.jpg"]


def test_images_in_s3_are_grouped_by_a_column_of_a_manifest(
    api: ResultsApi, command: Command, tmp_path: Path
) -> None:
    api.sources["s3://slides"] = {"1.jpg": b"ill", "2.jpg": b"ill 2", "3.jpg": b"well"}
    (tmp_path / "list.csv").write_text("path,patient\n1.jpg,x\n2.jpg,x\n3.jpg,x\n")
    out = tmp_path / "r.csv"
    options = ("--manifest", tmp_path / "list.csv", "--group-by", "patient", "--out", out)
    assert command("classify", "--source", "s3://slides", *options).exit_code == 0
    with out.open(newline="", encoding="utf-8") as lines:
        assert [(each["event_label"], each["event_score"]) for each in csv.DictReader(lines)] == [
            ("ill", "0.600000")
        ] * 3
    refused = command("classify", ".", "--watch", "--group-by", "folder", "--out", out)
    assert (refused.exit_code, "not with --watch" in refused.output) == (2, True)
