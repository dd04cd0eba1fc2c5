"""Columns from photos: what their EXIF says, and nothing that it does not say."""

import csv
import io
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from client.tests.support.photos import photo
from client.tests.support.results_api import Command, Photos, ResultsApi
from fleetsight_client.photos import read_photo

ALL = "taken_at,camera,gps,width,height"
TIME = {0x9003: "2026:05:01 06:12:33"}
NORTH_EAST = {1: "N", 2: (59.0, 30.0, 36.0), 3: "E", 4: (10.0, 45.0, 0.0)}


@pytest.mark.parametrize(
    ("details", "taken_at"),
    [
        (TIME, "2026-05-01 06:12:33"),
        (TIME | {0x9011: "+02:00"}, "2026-05-01 06:12:33+02:00"),
        (TIME | {0x9011: "   :  "}, "2026-05-01 06:12:33"),
        (TIME | {0x9011: "+99:00"}, None),
        ({0x9004: "2026:05:01 06:12:33", 0x9012: "-08:00"}, "2026-05-01 06:12:33-08:00"),
        ({0x9003: "0000:00:00 00:00:00"}, None),
        ({0x9003: "=cmd()"}, None),
        ({}, None),
    ],
)
def test_a_time_is_local_text_with_its_zone_only_if_the_photo_says_it(
    details: dict[int, Any], taken_at: str | None, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(photo({0x0132: "2025:01:01 00:00:00"}, details))
    assert read_photo(tmp_path / "a.jpg")["taken_at"] == taken_at


@pytest.mark.parametrize(
    ("place", "position"),
    [
        (NORTH_EAST, (59.51, 10.75)),
        (NORTH_EAST | {1: "S", 3: "W"}, (-59.51, -10.75)),
        ({tag: NORTH_EAST[tag] for tag in (2, 4)}, None),
        (NORTH_EAST | {2: (IFDRational(0, 0), 0.0, 0.0)}, None),
        (NORTH_EAST | {9: "V"}, None),
        ({}, None),
    ],
)
def test_a_position_is_whole_or_empty(
    place: dict[int, Any], position: tuple[float, float] | None, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(place=place))
    found = read_photo(tmp_path / "a.jpg")
    assert (found.get("latitude"), found.get("longitude")) == (position or (None, None))


def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("L", (2_000, 1_000)).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue()[:45])
    assert (read_photo(tmp_path / "a.png")["width"], read_photo(tmp_path / "a.png")["height"]) == (2_000, 1_000)


def test_columns_of_photos_are_text_beside_the_result(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    turned = photo({0x0110: "=1+1\x07", 0x0112: 6}, TIME | {0xA431: "H9"}, NORTH_EAST)
    named = photo({0x010F: "Reconyx", 0x0110: "RECONYX HP2X"})
    folder, out = photos({"a.jpg": turned, "b.jpg": named, "c.jpg": b"cat"}), tmp_path / "r.csv"
    assert command("classify", folder, "--out", out, "--columns", ALL).exit_code == 0
    with out.open(newline="", encoding="utf-8") as lines:
        found = [list(row.values())[-6:] for row in csv.DictReader(lines)]
    assert found == [
        ["2026-05-01 06:12:33", "'=1+1 H9", "59.510000", "10.750000", "4", "8"],
        ["", "RECONYX HP2X", "", "", "8", "4"],
        [""] * 6,
    ]
    assert {*api.names} == {"a.jpg", "b.jpg", "c.jpg"}
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an option of the client: pip install pyarrow")
    assert command("classify", folder, "--out", tmp_path / "r.parquet", "--columns", "gps,width").exit_code == 0
    last = [list(row.values())[-3:] for row in parquet.read_table(tmp_path / "r.parquet").to_pylist()]
    assert last == [[59.51, 10.75, 4], [None, None, 8], [None, None, None]]


def test_folders_with_dates_that_cannot_be_right_are_named(command: Command, photos: Photos, tmp_path: Path) -> None:
    def taken(text: str) -> bytes:
        return photo(details={0x9003: text})

    year = datetime.now(UTC).year + 2
    folder = photos(
        {"reset/1.jpg": taken("2000:01:01 00:00:09"), "reset/2.jpg": taken("2000:01:03 00:00:09")}
        | {"ahead/1.jpg": taken(f"{year}:05:01 00:00:00"), "fine/1.jpg": taken("2024:05:01 00:00:00")}
    )
    done = command("classify", folder, "--out", tmp_path / "r.csv", "--columns", "taken_at")
    assert "Dates of reset cannot be right: 2 of 2000-01-01 to 2000-01-03. Check its clock." in done.stderr
    assert f"Dates of ahead cannot be right: 1 of {year}-05-01." in done.stderr
    assert "Dates of fine" not in done.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--columns", "place", "--out", "r.csv"), "--columns place is unknown: choose from taken_at, camera, gps"),
        (("--columns", "gps"), "--columns goes with --out or --group-by"),
        (("--columns", "gps", "--out", "-", "--source", "s3://photos"), "--source"),
    ],
)
def test_wrong_columns_are_refused_before_anything_is_sent(
    options: tuple[str, ...], reason: str, api: ResultsApi, command: Command, photos: Photos
) -> None:
    done = command("classify", photos({"a.jpg": b"cat"}), *options)
    assert (done.exit_code, api.jobs) == (2, {})
    assert reason in done.output


def test_columns_without_pillow_are_refused_before_anything_is_sent(
    api: ResultsApi, command: Command, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    done = command("classify", photos({"a.jpg": b"cat"}), "--out", "-", "--columns", "width")
    assert (done.exit_code, api.jobs) == (2, {})
    assert "pip install 'fleetsight-client[photos]'" in done.output
