"""Readers of formats by other people, which judge what the command writes."""

import json
from pathlib import Path
from zipfile import ZipFile

import pytest

_TABLES = json.loads((Path(__file__).parent / "schemas" / "camtrap_dp_1_0_2.json").read_text(encoding="utf-8"))[
    "tables"
]
_KEYS = {"deployments": "deploymentID", "media": "mediaID", "observations": "observationID"}
_REFERENCES = {"media": ("deployments",), "observations": ("deployments", "media")}


def problems_of_package(archive: Path, folder: Path) -> list[list[object]]:
    """Return where frictionless finds that a package breaks the published tables of Camtrap DP, with their keys."""
    frictionless = pytest.importorskip("frictionless", reason="run ./scripts/setup.sh run test")
    with ZipFile(archive) as file:
        file.extractall(folder)
    described = json.loads((folder / "datapackage.json").read_text(encoding="utf-8"))
    del described["profile"]  # as the addresses of schemas, it is on another machine
    for resource in described["resources"]:
        if (name := resource["name"]) in _TABLES:
            references = [
                {"fields": _KEYS[other], "reference": {"resource": other, "fields": _KEYS[other]}}
                for other in _REFERENCES.get(name, ())
            ]
            resource["schema"] = {"fields": _TABLES[name], "primaryKey": _KEYS[name], "foreignKeys": references}
    (folder / "datapackage.json").write_text(json.dumps(described), encoding="utf-8")
    found: list[list[object]] = frictionless.validate(str(folder / "datapackage.json")).flatten()
    return found


def labels_of_coco(file: Path) -> dict[str, str]:
    """Return the label of each image with an annotation by its name, as COCO's own reader finds them."""
    coco = pytest.importorskip("pycocotools.coco", reason="run ./scripts/setup.sh run test").COCO(str(file))
    annotations = coco.loadAnns(coco.getAnnIds())
    coco.loadRes([{**each, "score": 1.0} for each in annotations])  # as results, which its evaluation reads
    return {
        coco.loadImgs(each["image_id"])[0]["file_name"]: coco.loadCats(each["category_id"])[0]["name"]
        for each in annotations
    }
