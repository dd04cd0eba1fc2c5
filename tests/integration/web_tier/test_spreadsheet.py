"""The CSV of a job, opened by LibreOffice: every cell is what the system wrote, and none is a formula."""

import csv
import shutil
import subprocess
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest

from core.ids import ImageRef, new_id
from core.jobs.models import ImageRecord
from core.messages import LabelScore
from tests.support.jobs import NOW, done, failed
from web_tier.results.export import BYTE_ORDER_MARK, CSV_HEADER, csv_lines
from web_tier.results.query import ImageResult

SOFFICE = shutil.which("soffice")

pytestmark = pytest.mark.skipif(
    SOFFICE is None, reason="LibreOffice is not installed: apt-get install libreoffice-calc"
)

ENGLISH, UTF_8, QUOTE = 1033, 76, 34
"""LibreOffice's numbers: https://help.libreoffice.org/latest/en-US/text/shared/guide/csv_params.html"""


NAMES = (
    "IMG_0001.jpg",
    "фото на море.jpg",
    "日本語 の 写真.png",
    "صورة من العطلة.jpg",
    "עברית \u200fRTL.jpg",
    "🏖️👨‍👩‍👧.jpg",
    "e\u0301te\u0301.jpg",
    'she said "hi", twice.jpg',
    "a;b,c|d.jpg",
    "'quoted'.jpg",
    "  two  spaces .jpg",
    "=1+1.jpg",
    '=HYPERLINK("http://127.0.0.1";"x")',
    "+1.jpg",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1).jpg",
    "a;=1+1",
    "a,=1+1",
    "\uff1d1+1.png",
    "day1/sub folder/IMG.jpg",
    "x" * 255,
)

_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"


def results() -> list[ImageResult]:
    found = []
    for number, name in enumerate(NAMES):
        record = ImageRecord(ImageRef(new_id(), new_id()), name, "jpg", (10 + number,), NOW)
        label = name if number % 2 else f"two\nlines {number}"
        top = tuple(LabelScore(label=f"{place} {label}", score=0.1 / place) for place in range(1, 6))
        done_one = done(record, label, 0.5).model_copy(update={"top": top, "recorded_at": NOW})
        found.append(ImageResult(record, done_one))
    broken, late = (ImageRecord(ImageRef(new_id(), new_id()), f"{name}.jpg", "jpg", (1,), NOW) for name in "ab")
    return [*found, ImageResult(broken, failed(broken)), ImageResult(late, None)]


def opened(text: str, folder: Path) -> list[list[tuple[str, str]]]:
    """Return the cells of a CSV, each with its type and value, as LibreOffice reads it."""
    (folder / "results.csv").write_text(text, encoding="utf-8", newline="")
    options = f"CSV:{ord(',')},{QUOTE},{UTF_8},1,,{ENGLISH},false,true"
    subprocess.run(
        [
            *(str(SOFFICE), f"-env:UserInstallation={(folder / 'profile').as_uri()}", "--headless"),
            *(f"--infilter={options}", "--convert-to", "fods", "--outdir", str(folder), str(folder / "results.csv")),
        ],
        check=True,
        capture_output=True,
        timeout=180,
    )
    root = ElementTree.parse(folder / "results.fods").getroot()  # noqa: S314 (LibreOffice wrote it)
    assert not [cell for cell in root.iter() if f"{_TABLE}formula" in cell.attrib], "no cell is a formula"
    return [
        [
            value
            for cell in row.iter(f"{_TABLE}table-cell")
            for value in [_cell(cell)] * int(cell.get(f"{_TABLE}number-columns-repeated", "1"))
        ]
        for row in root.iter(f"{_TABLE}table-row")
    ]


def _cell(cell: ElementTree.Element) -> tuple[str, str]:
    kind = cell.get(f"{_OFFICE}value-type", "")
    match kind:
        case "float":
            return kind, str(cell.get(f"{_OFFICE}value"))
        case "date":
            return kind, str(cell.get(f"{_OFFICE}date-value")).replace("T", " ")
        case "boolean":
            return kind, str(cell.get(f"{_OFFICE}boolean-value"))
        case _:
            return kind, "\n".join(_paragraph(each) for each in cell.iter(f"{_TEXT}p"))


def _paragraph(element: ElementTree.Element) -> str:
    text = element.text or ""
    for child in element:
        is_space = child.tag == f"{_TEXT}s"
        text += " " * int(child.get(f"{_TEXT}c", "1")) if is_space else _paragraph(child)
        text += child.tail or ""
    return text


@pytest.mark.parametrize("byte_order_mark", [False, True])
def test_libreoffice_reads_every_cell_as_it_was_written(tmp_path: Path, *, byte_order_mark: bool) -> None:
    text = "".join(csv_lines(results()))
    written = list(csv.reader(StringIO(text, newline="")))
    seen = opened(BYTE_ORDER_MARK * byte_order_mark + text, tmp_path)[: len(written)]
    assert len(seen) == len(NAMES) + 3
    for wanted, found in zip(written, seen, strict=True):
        padded = [*found, *[("", "")] * len(wanted)][: len(wanted)]
        for name, cell, (kind, value) in zip(CSV_HEADER, wanted, padded, strict=True):
            assert value == cell or (kind == "float" and float(value) == float(cell)), name
    first = dict(zip(CSV_HEADER, seen[1], strict=False))
    assert (first["score"][0], first["bytes"][0], first["accepted_at"][0]) == ("float", "float", "date")
