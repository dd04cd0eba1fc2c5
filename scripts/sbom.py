"""The software bill of materials of a section of requirements.txt, in CycloneDX (https://cyclonedx.org).

Names, versions and hashes come from requirements.txt; licences and dependencies from the metadata of the installed
packages.
"""

import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.pin import REQUIREMENTS, Pin, read_sections
from services.errors import FleetsightError

MAX_LICENSE_CHARACTERS = 100
"""The longest name of a licence; longer metadata, or several lines, are a licence's text."""

_LICENSES = LicenseFactory()


class SbomError(FleetsightError):
    """Raised when the bill of materials cannot be created; the message says why and what to do."""


def create_sbom(section: str) -> str:
    """Return the bill of materials of a section, as CycloneDX 1.6 in JSON.

    Raises:
        SbomError: the section does not exist, or not all of its packages are installed.
    """
    pins = read_sections().get(section)
    if pins is None:
        raise SbomError(f"requirements.txt has no section [{section}]; there are: {', '.join(read_sections())}")
    try:
        installed = {pin.name: distribution(pin.name) for pin in pins}
    except PackageNotFoundError as error:
        raise SbomError(
            f"{error.name} is not installed, so its licence is not known: ./scripts/setup.sh {section}"
        ) from error
    components = {pin.name: _component(pin, installed[pin.name]) for pin in pins}
    bom = Bom(components=components.values())
    bom.metadata.component = root = _root_component()
    bom.register_dependency(root, components.values())
    for name, component in components.items():
        requirements = map(Requirement, installed[name].requires or ())
        needed = {
            str(canonicalize_name(each.name))
            for each in requirements
            if each.marker is None or each.marker.evaluate({"extra": ""})
        }
        bom.register_dependency(component, [components[each] for each in sorted(needed & components.keys())])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


def _root_component() -> Component:
    project = tomllib.loads((REQUIREMENTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref=project["name"],
        licenses=[_license(project["license"])],
    )


def _component(pin: Pin, installed: Distribution) -> Component:
    purl = PackageURL("pypi", None, pin.name, pin.version)
    return Component(
        name=pin.name,
        version=pin.version,
        bom_ref=purl.to_string(),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.hashes],
        licenses=[_license(name) for name in _license_names(installed)],
    )


def _license_names(installed: Distribution) -> Iterator[str]:
    """Yield the licences of a package from the first of the three metadata fields that it uses."""
    metadata = installed.metadata
    if "License-Expression" in metadata:
        yield metadata["License-Expression"]
        return
    classifiers = [each for each in metadata.get_all("Classifier", ()) if each.startswith("License ::")]
    if classifiers:
        yield from (each.rpartition(" :: ")[2] for each in classifiers)
    elif (
        "License" in metadata
        and len(metadata["License"]) <= MAX_LICENSE_CHARACTERS
        and "\n" not in metadata["License"]
    ):
        yield metadata["License"]


def _license(name: str) -> License:
    return _LICENSES.make_from_string(name, license_acknowledgement=LicenseAcknowledgement.DECLARED)
