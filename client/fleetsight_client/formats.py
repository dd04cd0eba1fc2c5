"""Results in the formats of other tools: MegaDetector's (Timelapse), COCO, Label Studio and Camtrap DP.

Each writer takes one row at a time; what must come at the end of a file waits on the disk.
"""

import csv
import io
import json
import mimetypes
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote
from zipfile import ZIP_DEFLATED, ZipFile

from fleetsight_client.api import FleetsightClientError
from fleetsight_client.photos import is_doubtful
from fleetsight_client.rows import UNSURE, ResultRow, safe_cell
from fleetsight_client.tables import open_text, place_of, read_table

RowWriter = tuple[Callable[[ResultRow], None], Callable[[], None]]
"""A function that writes a row, and one that completes the file."""

KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("blank", "empty", "nothing", "none", "background"), "blank"),
    **dict.fromkeys(("human", "person", "people", "homo sapiens"), "human"),
    **dict.fromkeys(("vehicle", "car", "truck", "bicycle", "motorcycle"), "vehicle"),
}
"""Kinds of labels that camera traps distinguish, by label; any other one is an animal."""

DETECTIONS: Final = {"1": "animal", "2": "person", "3": "vehicle", "4": UNSURE}
"""Categories of detections as MegaDetector has them (https://lila.science/megadetector-output-format)."""

SHOWN_ABOVE: Final = 0.01
"""Scores from which tools show the box of an image: that of its best label, however sure."""

_CATEGORY_OF: Final = {"animal": "1", "human": "2", "vehicle": "3", UNSURE: "4"}

CAMTRAP: Final = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2/"
"""Where the schemas of Camtrap DP are published (https://camtrap-dp.tdwg.org)."""

DEPLOYMENT_COLUMNS: Final = (
    *("deploymentID", "locationID", "locationName", "latitude", "longitude", "coordinateUncertainty"),
    *("deploymentStart", "deploymentEnd", "setupBy", "cameraID", "cameraModel", "cameraDelay", "cameraHeight"),
    *("cameraDepth", "cameraTilt", "cameraHeading", "detectionDistance", "timestampIssues", "baitUse"),
    *("featureType", "habitat", "deploymentGroups", "deploymentTags", "deploymentComments"),
)
MEDIA_COLUMNS: Final = (
    *("mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic", "fileName"),
    *("fileMediatype", "exifData", "favorite", "mediaComments"),
)
OBSERVATION_COLUMNS: Final = (
    *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel"),
    *("observationType", "cameraSetupType", "scientificName", "count", "lifeStage", "sex", "behavior"),
    *("individualID", "individualPositionRadius", "individualPositionAngle", "individualSpeed", "bboxX", "bboxY"),
    *("bboxWidth", "bboxHeight", "classificationMethod", "classifiedBy", "classificationTimestamp"),
    *("classificationProbability", "observationTags", "observationComments"),
)

_ZONE: Final = re.compile(r"[+-]\d\d:\d\d|Z")
_FILE_PATH: Final = re.compile(r"^(?=^[^./~])(^((?!\.{2}).)*$).*$")
"""Paths that Camtrap DP allows, by its schema of media."""


class FormatError(FleetsightClientError):
    """Raised when results cannot be written in a format; the message says what is missing."""


def kind_of(label: str) -> str:
    """Return whether a label is blank, human, vehicle or animal."""
    return KINDS.get(re.sub(r"[\s_-]+", " ", label).strip().casefold(), "animal")


def reason_of(row: ResultRow) -> str:
    """Return why a row has no label."""
    return f"{row.error_code}: {row.error_message}" if row.error_code else "no result yet"


def scores_of(row: ResultRow) -> list[tuple[str, float]]:
    """Return the labels of an image with their scores, the best first."""
    top = [(str(pair["label"]), float(pair["score"])) for pair in row.body.get("top") or ()]
    return top or ([] if row.label is None else [(row.label, float(row.score or 0))])


def megadetector_writer(file: IO[str]) -> RowWriter:
    """Return the writer of MegaDetector's format 1.6: the class of an image is one detection, its whole box."""
    categories, separator = dict[str, str](), '{"images": [\n'

    def write(row: ResultRow) -> None:
        nonlocal separator
        image: dict[str, Any] = {"file": row.filename}
        if row.status != "done" or row.decision is None:
            image |= {"failure": reason_of(row), "detections": None}
        elif (kind := UNSURE if row.decision == UNSURE else kind_of(row.decision)) == "blank":
            image["detections"] = []
        else:
            pairs = [[categories.setdefault(label, str(len(categories))), score] for label, score in scores_of(row)]
            box = {"category": _CATEGORY_OF[kind], "conf": float(row.score or 0), "bbox": [0.0, 0.0, 1.0, 1.0]}
            image["detections"] = [box | {"classifications": pairs}]
        file.write(separator + json.dumps(image, ensure_ascii=False))
        separator = ",\n"

    def finish() -> None:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        # Readers take a file without a detector for one of MegaDetector 4, and hide boxes below 0.8.
        thresholds = {"typical_detection_threshold": SHOWN_ABOVE, "conservative_detection_threshold": SHOWN_ABOVE}
        info = {"format_version": "1.6", "detector": "fleetsight", "detector_metadata": thresholds}
        rest = {
            "info": info | {"classifier": "fleetsight", "classification_completion_time": now},
            "detection_categories": DETECTIONS,
            "classification_categories": {number: label for label, number in categories.items()},
        }
        start = separator if separator != ",\n" else ""
        file.write(f"{start}\n],\n{json.dumps(rest, ensure_ascii=False)[1:]}\n")

    return write, finish


def coco_writer(file: IO[str]) -> RowWriter:
    """Return the writer of COCO: the class of an image is one annotation, its whole box; rows have their sizes."""
    categories, counts = dict[str, int](), Counter[str]()
    annotations = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (finish closes it)

    def write(row: ResultRow) -> None:
        width, height = row.further.get("width"), row.further.get("height")
        counts["images"] += 1
        image = {"id": counts["images"], "file_name": row.filename, "width": width or 0, "height": height or 0}
        if row.further.get("taken_at"):
            image["date_captured"] = row.further["taken_at"]
        if row.decision is None:
            image["failure"] = reason_of(row)
        else:
            counts["annotations"] += 1
            annotation = {
                "id": counts["annotations"],
                "image_id": counts["images"],
                "category_id": categories.setdefault(row.decision, len(categories) + 1),
                "bbox": [0, 0, width or 0, height or 0],
                "area": (width or 0) * (height or 0),
                "iscrowd": 0,
                "score": row.score,
            }
            before = ",\n" if counts["annotations"] > 1 else ""
            annotations.write(before + json.dumps(annotation))
        file.write((",\n" if counts["images"] > 1 else '{"images": [\n') + json.dumps(image, ensure_ascii=False))

    def finish() -> None:
        if not counts["images"]:
            file.write('{"images": [')
        file.write('\n],\n"annotations": [\n')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file)
        annotations.close()
        rest = {
            "categories": [{"id": number, "name": label} for label, number in categories.items()],
            "info": {"description": "labels of Fleetsight", "date_created": datetime.now(UTC).isoformat()},
        }
        file.write(f"\n],\n{json.dumps(rest, ensure_ascii=False)[1:]}\n")

    return write, finish


def label_studio_writer(file: IO[str]) -> RowWriter:
    """Return the writer of tasks of Label Studio with pre-annotations, for a label config with `Choices` named label.

    The image is a path below the folder that Label Studio serves as local files.
    """
    separator = "[\n"

    def choice(label: str) -> list[dict[str, Any]]:
        return [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]

    def write(row: ResultRow) -> None:
        nonlocal separator
        image = f"/data/local-files/?d={quote(row.filename)}"
        further = {name: value for name, value in row.further.items() if name != "image"}
        task: dict[str, Any] = {
            "data": {**further, "image": image, "filename": row.filename, "decision": row.decision}
        }
        if row.label is not None:
            predicted = {"model_version": row.model, "score": row.score, "result": choice(row.label)}
            task["predictions"] = [predicted]
        if row.truth is not None:
            task["annotations"] = [{"result": choice(row.truth)}]
        file.write(separator + json.dumps(task, ensure_ascii=False))
        separator = ",\n"

    def finish() -> None:
        file.write("[]\n" if separator == "[\n" else "\n]\n")

    return write, finish


@dataclass(frozen=True, slots=True)
class CamtrapPackage:
    """What a project knows of its cameras: a folder with `datapackage.json` and `deployments.csv` of Camtrap DP.

    Attributes:
        zone: of times that have none, such as `+02:00`; without it, images with such times are left out.
    """

    folder: Path
    zone: str | None = None

    def deployments(self) -> set[str]:
        """Return the ids of the deployments."""
        return {cells[0] for cells in self.deployment_rows()[1:]}

    def deployment_rows(self) -> list[list[str]]:
        """Return the cells of `deployments.csv`, its header first, with all columns of the format: readers want them.

        Raises:
            FormatError: its first column is another one than deploymentID.
        """
        rows = [cells for _, cells in read_table(self.folder / "deployments.csv")]
        if not rows or place_of(rows[0], ("deploymentid",)) != 0:
            raise FormatError(f"{self.folder / 'deployments.csv'} must begin with the column deploymentID")
        header = ["deploymentID", *rows[0][1:]]
        columns = [*DEPLOYMENT_COLUMNS, *(each for each in header if each not in DEPLOYMENT_COLUMNS)]
        found = (dict(zip(header, cells, strict=False)) for cells in rows[1:])
        return [columns, *([row.get(name, "") for name in columns] for row in found)]

    def description(self) -> dict[str, Any]:
        """Return the description of the package.

        Raises:
            FormatError: it cannot be read, or lacks what only its project knows.
        """
        file = self.folder / "datapackage.json"
        try:
            with open_text(file) as lines:
                found = json.load(lines)
        except (OSError, ValueError) as error:
            raise FormatError(f"{file} cannot be read: {error}") from error
        try:
            _ = [each["scientificName"] for each in found.get("taxonomic", ())]
            _ = [each["name"] for each in found.get("resources", ())]
        except (AttributeError, KeyError, TypeError) as error:
            raise FormatError(
                f"{file} is no description of a package: give each of `taxonomic` a `scientificName`, and each of "
                "`resources` a `name`"
            ) from error
        missing = [name for name in ("contributors", "project", "spatial") if name not in found]
        if missing:
            raise FormatError(f"{file} lacks {', '.join(missing)}: see https://camtrap-dp.tdwg.org/metadata")
        if self.zone is not None and not _ZONE.fullmatch(self.zone):
            raise FormatError(f"--timezone {self.zone}: write it as +02:00")
        self.deployments()
        return dict(found)


def camtrap_writer(file: IO[bytes], package: CamtrapPackage, left_out: Counter[str]) -> RowWriter:
    """Return the writer of a zip of Camtrap DP 1.0: the package with `media` and `observations` of the rows.

    The deployment of an image is its column `deploymentID`, or else its first folder. `left_out` counts images that
    the format cannot have, by the reason.
    """
    known, names, days, now = package.deployments(), set[str](), list[str](), datetime.now(UTC)
    tables = {
        name: tempfile.TemporaryFile("w+", encoding="utf-8", newline="")  # noqa: SIM115 (finish closes it)
        for name in ("media", "observations")
    }
    media, observations = (csv.writer(table) for table in tables.values())
    media.writerow(MEDIA_COLUMNS)
    observations.writerow(OBSERVATION_COLUMNS)

    def write(row: ResultRow) -> None:
        deployment = str(row.further.get("deploymentID") or row.filename.partition("/")[0])
        time = _camtrap_time(row.further.get("taken_at"), package.zone) or ""
        for is_wrong, reason in (
            (deployment not in known, "its deployment is not in deployments.csv"),
            (not time, "no time with a zone: see --columns taken_at and --timezone"),
            (time and is_doubtful(time, now), "its date cannot be right: check the camera's clock"),
            (not _FILE_PATH.match(row.filename), "its path begins with . or ~"),
        ):
            if is_wrong:
                left_out[reason] += 1
                return
        days[:] = [min(*days, time[:10]), max(*days, time[:10])] if days else [time[:10]] * 2
        _write_image(row, deployment, time)

    def _write_image(row: ResultRow, deployment: str, time: str) -> None:
        media_id = row.image_id or f"file {row.filename}"
        kind = "unclassified" if row.decision is None else kind_of(row.decision)
        kind = "unknown" if row.decision == UNSURE else kind
        if kind == "animal" and row.label is not None:
            names.add(row.label)
        medium: dict[str, Any] = {
            "mediaID": media_id,
            "deploymentID": deployment,
            "timestamp": time,
            "filePath": row.filename,
            "filePublic": "false",
            "fileName": row.filename.rpartition("/")[2],
            "fileMediatype": _media_type(row.filename),
            "mediaComments": None if row.decision is not None else reason_of(row),
        }
        observation: dict[str, Any] = {
            "observationID": media_id,
            "deploymentID": deployment,
            "mediaID": media_id,
            "eventID": row.further.get("event_id"),
            "eventStart": time,
            "eventEnd": time,
            "observationLevel": "media",
            "observationType": kind,
            "scientificName": row.label if kind == "animal" else None,
            "classificationMethod": "machine",
            "classifiedBy": row.model,
            "classificationTimestamp": f"{row.recorded_at:%Y-%m-%dT%H:%M:%SZ}" if row.recorded_at else None,
            "classificationProbability": None if row.score is None else f"{row.score:.6f}",
            "observationComments": f"{UNSURE}: {row.label or 'no label'}" if kind == "unknown" else None,
        }
        for table, columns, values in (
            (media, MEDIA_COLUMNS, medium),
            (observations, OBSERVATION_COLUMNS, observation),
        ):
            cells = {name: safe_cell(str(value or "")) for name, value in values.items()}
            cells["deploymentID"] = deployment  # as in deployments.csv, to which it refers
            table.writerow(cells.get(name, "") for name in columns)

    def finish() -> None:
        described = package.description()
        own = [
            {
                "name": name,
                "path": f"{name}.csv",
                "profile": "tabular-data-resource",
                "format": "csv",
                "mediatype": "text/csv",
                "encoding": "utf-8",
                "schema": f"{CAMTRAP}{name}-table-schema.json",
            }
            for name in ("deployments", "media", "observations")
        ]
        others = [each for each in described.get("resources", []) if each.get("name") not in {*tables, "deployments"}]
        taxa = {each["scientificName"]: each for each in described.get("taxonomic", [])}
        described |= {
            "resources": [*own, *others],
            "profile": f"{CAMTRAP}camtrap-dp-profile.json",
            "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "taxonomic": [*taxa.values(), *({"scientificName": name} for name in sorted(names - {*taxa}))],
        }
        described.setdefault("temporal", dict(zip(("start", "end"), days, strict=False)))
        with ZipFile(file, "w", ZIP_DEFLATED) as archive:
            archive.writestr("datapackage.json", json.dumps(described, indent=2, ensure_ascii=False))
            deployments = io.StringIO(newline="")
            csv.writer(deployments).writerows(package.deployment_rows())
            archive.writestr("deployments.csv", deployments.getvalue())
            for name, table in tables.items():
                table.seek(0)
                with io.TextIOWrapper(archive.open(f"{name}.csv", "w"), encoding="utf-8", newline="") as member:
                    shutil.copyfileobj(table, member)
                table.close()

    return write, finish


def _media_type(filename: str) -> str:
    found = mimetypes.guess_type(filename)[0] or ""
    return found if found.startswith("image/") else "image/jpeg"


def _camtrap_time(taken_at: object, zone: str | None) -> str | None:
    """Return a time with its zone, or with the given one; None if it has none and none is given."""
    text = str(taken_at or "").replace(" ", "T", 1)
    own = text[19:] or zone
    if own is None or not _ZONE.fullmatch(own):
        return None
    try:
        datetime.fromisoformat(text[:19] + own)
    except ValueError:
        return None
    return text[:19] + own
