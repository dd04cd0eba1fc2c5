"""The software bill of materials: what a section of requirements.txt installs, in CycloneDX (https://cyclonedx.org).

Names, versions and hashes are those of requirements.txt; licences and dependencies are what the installed packages
say of themselves.
"""

import tomllib
from collections.abc import Iterable, Iterator
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

from scripts.requirements_file import REQUIREMENTS, Pin, read_sections
from services.errors import FleetsightError

MAX_LICENSE_CHARACTERS = 100
"""Characters; what is longer, or of several lines, is a licence's text and not its name."""

_LICENSES = LicenseFactory()


class SbomError(FleetsightError):
    """Raised when there is no bill of materials for what was asked; the message says why and what to do."""


def bill_of(section: str) -> str:
    """Return the bill of materials of a section, as CycloneDX 1.6 in JSON.

    Raises:
        SbomError: there is no such section, or not all of it is installed.
    """
    pins = read_sections().get(section)
    if pins is None:
        raise SbomError(f"requirements.txt has no section [{section}]; there are: {', '.join(read_sections())}")
    installed = {pin.name: _installed(pin, section) for pin in pins}
    components = {pin.name: _component(pin, installed[pin.name]) for pin in pins}
    bom = Bom(components=components.values())
    bom.metadata.component = root = _fleetsight()
    bom.register_dependency(root, components.values())
    for name, component in components.items():
        needed = _needed(installed[name].requires or ())
        bom.register_dependency(component, [components[each] for each in sorted(needed & components.keys())])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


def _fleetsight() -> Component:
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


def _installed(pin: Pin, section: str) -> Distribution:
    try:
        return distribution(pin.name)
    except PackageNotFoundError as error:
        raise SbomError(
            f"{pin.name} is not installed, so its licence is not known: ./scripts/setup.sh {section}"
        ) from error


def _license_names(installed: Distribution) -> Iterator[str]:
    """Yield what a package says of its licence, in the first of the three ways that it uses."""
    said = installed.metadata
    if "License-Expression" in said:
        yield said["License-Expression"]
        return
    classifiers = [each for each in said.get_all("Classifier", ()) if each.startswith("License ::")]
    if classifiers:
        yield from (each.rpartition(" :: ")[2] for each in classifiers)
    elif "License" in said and len(said["License"]) <= MAX_LICENSE_CHARACTERS and "\n" not in said["License"]:
        yield said["License"]


def _license(name: str) -> License:
    return _LICENSES.make_from_string(name, license_acknowledgement=LicenseAcknowledgement.DECLARED)


def _needed(requires: Iterable[str]) -> set[str]:
    requirements = (Requirement(each) for each in requires)
    return {
        str(canonicalize_name(each.name))
        for each in requirements
        if each.marker is None or each.marker.evaluate({"extra": ""})
    }
