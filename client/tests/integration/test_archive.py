"""A season of camera traps: 1,000 photos in 12 folders with bursts, damage and a manifest, killed and resumed."""

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from client.tests.support import results_api
from client.tests.support.judges import labels_of_coco, problems_of_package
from client.tests.support.photos import photo
from client.tests.support.results_api import DEADLINE_SECONDS, FAILED, REJECTED, ResultsApi, served

pytestmark = pytest.mark.processes

PACKAGE = Path(__file__).parents[2]
FOLDERS, PHOTOS = 12, 1_000
BURST = 3
"""Photos of a burst, two seconds apart; bursts are ten minutes apart."""


def name_of(number: int) -> str:
    return f"cam{number % FOLDERS:02}/IMG_{number // FOLDERS:04}.JPG"


def content_of(number: int) -> bytes:
    """Return a photo, or every 500th time a damaged file and every 700th time none; each has bytes of its own."""
    if number % 500 == 7:
        return FAILED
    if number % 700 == 9:
        return REJECTED
    return taken(number // FOLDERS) + str(number).encode()


@cache
def taken(at: int) -> bytes:
    """Return the photo that each camera takes at this place in its folder."""
    minute, second = at // BURST * 10, at % BURST * 2
    moment = f"2026:05:01 {minute // 60:02}:{minute % 60:02}:{second:02}"
    return photo(details={0x9003: moment, 0x9011: "+02:00"})


def make(folder: Path) -> Path:
    """Write the photos, and return their manifest."""
    for camera in range(FOLDERS):
        (folder / f"cam{camera:02}").mkdir(parents=True)
    for number in range(PHOTOS):
        (folder / name_of(number)).write_bytes(content_of(number))
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "deploymentID", "site"))
        rows.writerows((name_of(at), f"dep{at % FOLDERS:02}", f"=site{at % 7}") for at in range(PHOTOS))
    (folder / "datapackage.json").write_text(json.dumps({"contributors": [], "project": {}, "spatial": {}}))
    with (folder / "deployments.csv").open("w", encoding="utf-8") as file:
        file.write("deploymentID,latitude,longitude,deploymentStart,deploymentEnd\n")
        during = "2026-04-01T00:00:00Z,2026-06-01T00:00:00Z"
        file.writelines(f"dep{camera:02},59,10,{during}\n" for camera in range(FOLDERS))
    return folder / "list.csv"


def test_an_archive_is_classified_once_and_written_in_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, top = results_api.result_of, [{"label": "red fox", "score": 0.8}, {"label": "elk", "score": 0.2}]

    def result_of(image_id: str, name: str, content: bytes) -> dict[str, Any]:
        body = plain(image_id, name, content)
        found = {"label": "red fox", "score": 0.8, "decision": "red fox", "top": top}
        return body | found if body["status"] == "done" else body

    monkeypatch.setattr(results_api, "result_of", result_of)
    manifest, api, out = make(tmp_path / "photos"), ResultsApi(), tmp_path / "r.csv"
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    options = ("--manifest", str(manifest), "--columns", "taken_at,width,height", "--group-by", "deploymentID,60s")
    with served(api.app()) as url:
        command = [sys.executable, "-m", "fleetsight_client", "classify", *options, "--url", url]
        first = [*command, "--out", str(out)]
        killed = subprocess.Popen(first, cwd=PACKAGE, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while api.names.total() < PHOTOS // 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        killed.kill()
        killed.wait(DEADLINE_SECONDS)
        assert not out.exists()
        more = {
            "r.csv": ("--resume",),
            "r.jsonl": (),
            "r.md.json": (),
            "r.coco.json": (),
            "r.labelstudio.json": (),
            "r.camtrap-dp.zip": ("--camtrap-package", str(manifest.parent)),
        }
        for number, (name, further) in enumerate(more.items(), 1):
            done = subprocess.run(
                [*command, "--out", str(tmp_path / name), *further],
                cwd=PACKAGE,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=10 * DEADLINE_SECONDS,
            )
            assert done.returncode == 1, done.stderr
            assert {*api.names.values()} == {number}, "each image is sent once by each command"
    with out.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    rejected = sum(content_of(number) == REJECTED for number in range(PHOTOS))
    failed = sum(content_of(number) == FAILED for number in range(PHOTOS))
    assert Counter(row["status"] for row in rows) == {
        "done": PHOTOS - rejected - failed, "rejected": rejected, "failed": failed,
    }  # fmt: skip
    assert {row["filename"]: row["site"] for row in rows} == {name_of(at): f"'=site{at % 7}" for at in range(PHOTOS)}
    assert {row["event_label"] for row in rows if row["status"] == "done"} == {"red fox"}
    sizes = Counter(row["n"] for row in rows if row["status"] == "done" and row["taken_at"])
    assert {*sizes} <= {"1", "2", "3"}
    assert sizes["3"] > PHOTOS * 9 // 10
    labelled = {row["filename"] for row in rows if row["status"] == "done"}
    written = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["filename"] for line in written if line["status"] == "done"} == labelled
    images = json.loads((tmp_path / "r.md.json").read_text(encoding="utf-8"))["images"]
    assert {image["file"] for image in images if image["detections"]} == labelled
    assert labels_of_coco(tmp_path / "r.coco.json") == dict.fromkeys(labelled, "red fox")
    tasks = json.loads((tmp_path / "r.labelstudio.json").read_text(encoding="utf-8"))
    assert {task["data"]["filename"] for task in tasks if "predictions" in task} == labelled
    with ZipFile(tmp_path / "r.camtrap-dp.zip") as file:
        media = list(csv.DictReader(file.read("media.csv").decode().splitlines()))
    assert {row["filePath"] for row in media} == labelled
    assert problems_of_package(tmp_path / "r.camtrap-dp.zip", tmp_path / "read") == []
