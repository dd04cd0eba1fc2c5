"""The bill of materials is CycloneDX, whole, and says what requirements.txt and the packages say."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner

from scripts.cli import fleetsight
from scripts.pin import read_sections
from scripts.sbom import SbomError, create_sbom

SCHEMAS = files("cyclonedx.schema") / "_res"


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """The bill of what runs on one machine."""
    made: dict[str, Any] = json.loads(create_sbom("run"))
    return made


def schema(uri: str) -> Any:
    """Return a schema that CycloneDX's refers to."""
    name = uri.rpartition("/")[2].replace(".SNAPSHOT", "").replace(".schema.json", ".SNAPSHOT.schema.json")
    return json.loads((SCHEMAS / name).read_text())


def test_it_is_valid_cyclonedx(bill: dict[str, Any]) -> None:
    rules = json.loads((SCHEMAS / "bom-1.6.SNAPSHOT.schema.json").read_text())
    jsonschema_rs.validator_for(rules, retriever=schema).validate(bill)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(rules, retriever=schema).validate(bill | {"components": [{"name": "x"}]})


def test_it_has_every_pinned_package_with_version_hashes_and_licence(bill: dict[str, Any]) -> None:
    components = {each["name"]: each for each in bill["components"]}
    pins = {pin.name: pin for pin in read_sections()["run"]}
    assert components.keys() == pins.keys()
    for name, pin in pins.items():
        found = components[name]
        assert found["version"] == pin.version
        assert found["purl"] == f"pkg:pypi/{name}@{pin.version}"
        assert {each["content"] for each in found["hashes"]} == set(pin.hashes)
        assert found["licenses"], f"{name} says nothing of its licence"


def test_it_says_who_needs_whom_and_that_all_of_it_is_for_us(bill: dict[str, Any]) -> None:
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in bill["dependencies"]}
    assert len(needs["fleetsight"]) == len(bill["components"])
    flask = next(needs[ref] for ref in needs if ref.startswith("pkg:pypi/flask@"))
    assert any(ref.startswith("pkg:pypi/werkzeug@") for ref in flask)


def test_the_command_writes_the_bill_of_a_machine(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    assert CliRunner().invoke(fleetsight, ["sbom", str(file), "--section", "worker"]).exit_code == 0
    names = {each["name"] for each in json.loads(file.read_text())["components"]}
    assert names == {pin.name for pin in read_sections()["worker"]}


def test_a_section_that_there_is_not_is_named_with_those_there_are() -> None:
    with pytest.raises(SbomError, match=r"no section \[all\]; there are: run, worker, web"):
        create_sbom("all")
