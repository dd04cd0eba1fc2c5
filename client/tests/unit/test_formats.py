"""Formats of other tools: each file keeps the rules that its format publishes, and gives back what was classified."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from client.tests.support.judges import labels_of_coco, problems_of_package
from client.tests.support.photos import photo
from client.tests.support.results_api import FAILED, REJECTED, Command, Photos, ResultsApi
from fleetsight_client.formats import CamtrapPackage, FormatError, kind_of
from fleetsight_client.output import ResultRowsFile
from fleetsight_client.rows import ResultRow, unescaped_cell
from fleetsight_client.tables import TableError


@pytest.fixture
def archive(photos: Photos) -> Path:
    """A folder of two cameras, one with a zone in its times, with a damaged, a refused and a blank image."""

    def taken(second: int, zone: str = "") -> bytes:
        return photo(details={0x9003: f"2026:05:01 06:00:{second:02}"} | ({0x9011: zone} if zone else {}))

    return photos(
        {"north/1.jpg": taken(1, "+02:00"), "north/2.jpg": taken(2), "south/=3.jpg": taken(3, "-08:00")}
        | {"south/4.jpg": FAILED, "east/5.jpg": taken(5, "+00:00"), "north/~6.jpg": taken(6), "south/7.jpg": REJECTED}
    )


@pytest.fixture
def written(command: Command, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Classify the folder into a file of a format; return its content."""
    labels = iter(["red fox", "blank", "Person", "elk", "elk", "elk"])
    given = dict[str, str]()

    def result_of(image_id: str, name: str, content: bytes) -> dict[str, Any]:
        body = {"image_id": image_id, "filename": name, "recorded_at": "2026-11-24T00:00:01+00:00", "model": None}
        if content == FAILED:
            return body | {"status": "failed", "error": {"code": "truncated", "message": "it ends early"}}
        label = given.setdefault(name, next(labels))
        top = [{"label": label, "score": 0.8}, {"label": "other", "score": 0.2}]
        return body | {"status": "done", "label": label, "score": 0.8, "top": top}

    monkeypatch.setattr("client.tests.support.results_api.result_of", result_of)

    def write(name: str, *options: object) -> Any:
        out = tmp_path / name
        done = command("classify", archive, "--out", out, *options)
        assert done.exit_code == 1, done.output
        return (done, given, out)

    return write


def test_megadetectors_format_has_one_detection_for_an_image_and_the_reason_of_a_failure(
    written: Callable[..., Any],
) -> None:
    _, given, out = written("r.md.json")
    found = json.loads(out.read_text(encoding="utf-8"))
    # The rules of https://lila.science/megadetector-output-format. Tools take a file without `detector` for one of
    # MegaDetector 4, and hide its boxes below 0.8.
    assert {*found} == {"info", "images", "detection_categories", "classification_categories"}
    assert found["info"].items() >= {"format_version": "1.6", "detector": "fleetsight"}.items()
    assert found["info"]["detector_metadata"]["typical_detection_threshold"] <= 0.05
    categories = {**found["detection_categories"], **found["classification_categories"]}
    assert all(number.isdecimal() and name for number, name in categories.items())
    assert all((image["detections"] is None) is ("failure" in image) for image in found["images"])
    read = dict[str, str]()
    for image in found["images"]:
        for box in image["detections"] or ():
            read[image["file"]] = found["classification_categories"][box["classifications"][0][0]]
            assert (box["bbox"], box["conf"]) == ([0, 0, 1, 1], 0.8)
            assert [score for _, score in box["classifications"]] == [0.8, 0.2]
            category = "person" if kind_of(given[image["file"]]) == "human" else "animal"
            assert found["detection_categories"][box["category"]] == category
    assert read == {name: label for name, label in given.items() if label != "blank"}
    failures = {image["file"]: image["failure"] for image in found["images"] if "failure" in image}
    assert failures == {"south/4.jpg": "truncated: it ends early", "south/7.jpg": "not_an_image: no image"}
    assert len(found["images"]) == 7


def test_coco_has_one_annotation_for_a_whole_image(written: Callable[..., Any]) -> None:
    _, given, out = written("r.coco.json", "--columns", "width,height,taken_at")
    found = json.loads(out.read_text(encoding="utf-8"))
    assert labels_of_coco(out) == given
    # The rules of https://cocodataset.org/#format-data which its reader does not need.
    for each in found["annotations"]:
        assert (each["bbox"], each["area"], each["iscrowd"]) == ([0, 0, 8, 4], 32, 0)
    assert {type(image[side]) for image in found["images"] for side in ("width", "height")} == {int}
    assert min(each["id"] for each in found["categories"]) >= 1
    assert next(image["failure"] for image in found["images"] if "failure" in image).startswith("truncated")


def test_label_studio_has_a_task_for_each_image_with_what_was_predicted(
    written: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "truth.csv").write_text("north/1.jpg,fox\n")
    _, given, out = written("r.labelstudio.json", "--truth", tmp_path / "truth.csv", "--columns", "taken_at")
    found = json.loads(out.read_text(encoding="utf-8"))
    read = {
        task["data"]["filename"]: task["predictions"][0]["result"][0]["value"]["choices"][0]
        for task in found
        if "predictions" in task
    }
    assert read == given
    first = next(task for task in found if task["data"]["filename"] == "north/1.jpg")
    choices = {"from_name": "label", "to_name": "image", "type": "choices"}  # https://labelstud.io/guide/predictions
    right, predicted = ([choices | {"value": {"choices": [label]}}] for label in ("fox", given["north/1.jpg"]))
    assert first["predictions"] == [{"model_version": None, "score": 0.8, "result": predicted}]
    assert first["annotations"] == [{"result": right}]
    assert first["data"]["image"] == "/data/local-files/?d=north/1.jpg"
    assert first["data"]["taken_at"] == "2026-05-01 06:00:01+02:00"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What a project knows of its cameras."""
    folder = tmp_path / "package"
    folder.mkdir()
    described = {
        "contributors": [{"title": "A"}],
        "project": {"title": "P", "samplingDesign": "opportunistic", "captureMethod": ["activityDetection"]},
        "spatial": {"type": "Point", "coordinates": [10, 59]},
        "taxonomic": [{"scientificName": "elk", "taxonRank": "species"}],
        "resources": [{"name": "own", "data": [["a"], [1]]}, {"name": "media", "path": "old.csv"}],
    }
    (folder / "datapackage.json").write_text(json.dumps(described))
    (folder / "deployments.csv").write_text(
        "deploymentID;latitude;longitude;deploymentStart;deploymentEnd\n"
        "north,59.1,-10.2,2026-04-01T00:00:00Z,2026-06-01T00:00:00Z\n"
        "south,59.0,10.3,2026-04-01T00:00:00Z,2026-06-01T00:00:00Z\n"
        "-east,59.0,10.3,2026-04-01T00:00:00Z,2026-06-01T00:00:00Z\n".replace(",", ";"),
        encoding="utf-16",
    )
    return folder


def test_camtrap_dp_has_media_and_observations_that_keep_its_schemas(
    written: Callable[..., Any], package: Path, tmp_path: Path
) -> None:
    done, given, out = written(
        *("r.camtrap-dp.zip", "--columns", "taken_at", "--camtrap-package", package, "--timezone", "+01:00")
    )
    with ZipFile(out) as file:
        described = json.loads(file.read("datapackage.json"))
        tables = {
            name: list(csv.DictReader(io.StringIO(file.read(f"{name}.csv").decode(), newline="")))
            for name in ("deployments", "media", "observations")
        }
    assert problems_of_package(out, tmp_path / "read") == []
    media = {unescaped_cell(row["filePath"]): row for row in tables["media"]}
    assert {name: row["timestamp"] for name, row in media.items()} == {
        "north/1.jpg": "2026-05-01T06:00:01+02:00",
        "north/2.jpg": "2026-05-01T06:00:02+01:00",
        "north/~6.jpg": "2026-05-01T06:00:06+01:00",
        "south/=3.jpg": "2026-05-01T06:00:03-08:00",
    }
    ids = {row["mediaID"]: name for name, row in media.items()}
    read = {ids[row["mediaID"]]: (row["observationType"], row["scientificName"]) for row in tables["observations"]}
    kinds = {name: (kind_of(label), label if kind_of(label) == "animal" else "") for name, label in given.items()}
    assert read == {name: kinds[name] for name in media}
    deployments = [{each["deploymentID"] for each in tables[name]} for name in ("media", "deployments")]
    assert deployments[0] <= deployments[1]
    assert [each["name"] for each in described["resources"]] == ["deployments", "media", "observations", "own"]
    assert described["taxonomic"][0] == {"scientificName": "elk", "taxonRank": "species"}
    assert described["temporal"] == {"start": "2026-05-01", "end": "2026-05-01"}
    assert "(its deployment is not in deployments.csv): 1." in done.stderr
    assert "(no time with a zone: see --columns taken_at and --timezone): 2." in done.stderr


def test_camtrap_dp_leaves_out_images_with_dates_that_cannot_be_right(package: Path, tmp_path: Path) -> None:
    times = ["2026-05-01 06:00:00Z", "9999-12-31 23:59:59Z", "0001-01-01 00:00:00Z", "1980-01-01 00:00:00+02:00"]
    with ResultRowsFile(str(tmp_path / "r.camtrap-dp.zip"), package=CamtrapPackage(package)) as file:
        for at, time in enumerate(times):
            row = ResultRow(filename=f"north/{at}.jpg", status="done", label="elk", further={"taken_at": time})
            file.write(row)
    assert file.left_out == {"its date cannot be right: check the camera's clock": 3}
    with ZipFile(tmp_path / "r.camtrap-dp.zip") as package_file:
        assert json.loads(package_file.read("datapackage.json"))["temporal"]["end"] == "2026-05-01"
        for name in ("media", "observations"):
            assert len(package_file.read(f"{name}.csv").splitlines()) == 2


def test_camtrap_dp_keeps_the_names_of_deployments_and_their_positions(package: Path, tmp_path: Path) -> None:
    further = {"deploymentID": "-east", "taken_at": "2026-05-01 06:00:00Z"}
    with ResultRowsFile(str(tmp_path / "r.camtrap-dp.zip"), package=CamtrapPackage(package)) as written:
        written.write(ResultRow(filename="=1.jpg", status="done", label="elk", score=0.9, further=further))
    with ZipFile(tmp_path / "r.camtrap-dp.zip") as file:
        tables = {
            name: list(csv.DictReader(io.StringIO(file.read(f"{name}.csv").decode(), newline="")))
            for name in ("deployments", "media", "observations")
        }
    assert {rows[-1]["deploymentID"] for rows in tables.values()} == {"-east"}
    assert tables["deployments"][0]["longitude"] == "-10.2"
    assert tables["media"][0]["filePath"] == "'=1.jpg"


def test_a_column_that_a_task_has_itself_is_refused_and_not_dropped(
    api: ResultsApi, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("path,image\na.jpg,7\n")
    done = command("classify", "--manifest", tmp_path / "list.csv", "--out", tmp_path / "r.labelstudio.json")
    assert (done.exit_code, api.jobs) == (2, {})
    assert "rename the column 'image'" in done.output


def test_a_package_that_is_gone_leaves_no_half_written_file(tmp_path: Path) -> None:
    with (
        pytest.raises(TableError),
        ResultRowsFile(str(tmp_path / "r.camtrap-dp.zip"), package=CamtrapPackage(tmp_path / "gone")),
    ):
        pass
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("described", ["[]", '{"taxonomic": ["elk"]}', '{"resources": [{}]}'])
def test_a_damaged_description_of_a_package_is_said_before_anything_is_sent(described: str, package: Path) -> None:
    (package / "datapackage.json").write_text(described)
    with pytest.raises(FormatError, match="is no description of a package"):
        CamtrapPackage(package).description()


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("r.camtrap-dp.zip", ("--camtrap-package", "package"), "add --columns taken_at"),
        ("r.coco.json", (), "COCO has the sizes of images: add --columns width,height"),
        ("r.md.json", ("--watch",), "--watch appends results"),
        ("r.csv", ("--timezone", "+01:00"), "--camtrap-package, --timezone and --out"),
        ("r.csv", ("--camtrap-package", "package"), "--camtrap-package go together"),
        ("r.camtrap-dp.zip", ("--camtrap-package", "photos"), "datapackage.json cannot be read"),
        ("r.camtrap-dp.zip", ("--camtrap-package", "package", "--timezone", "CET"), "write it as +02:00"),
    ],
)
def test_what_a_format_lacks_is_said_before_anything_is_sent(
    name: str,
    options: tuple[str, ...],
    reason: str,
    api: ResultsApi,
    command: Command,
    photos: Photos,
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(package.parent)
    done = command("classify", photos({"a.jpg": b"cat"}), "--out", name, *options)
    assert (done.exit_code, api.jobs) == (2, {})
    assert reason in done.output


@pytest.mark.parametrize("name", ["r.md.json", "r.labelstudio.json"])
def test_results_of_a_job_are_written_in_formats_without_data_of_the_photos(
    name: str, api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    command("classify", photos({"a.jpg": b"cat"}))
    job_id = next(iter(api.jobs))
    assert command("results", job_id, "--out", tmp_path / name).exit_code == 0
    assert "a.jpg" in (tmp_path / name).read_text()
    assert command("results", job_id, "--out", tmp_path / "r.coco.json").exit_code == 2
