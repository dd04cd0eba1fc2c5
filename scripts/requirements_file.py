"""requirements.txt as it is written: sections of pins, each with the SHA-256 of every file that may be installed."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"

_SECTION = re.compile(r"# \[(\w+)\]")
_PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?P<marker> ; [^\\]*[^\\ ])?(?: \\)?")
_HASH = re.compile(r" +--hash=sha256:([0-9a-f]{64})(?: \\)?")


class RequirementsError(ValueError):
    """Raised when a line of requirements.txt is none that belongs there."""


@dataclass(frozen=True)
class Pin:
    """One exact version of a package.

    Attributes:
        name: as PEP 503 spells it.
        marker: where alone it is installed, such as `sys_platform == "linux"`; empty for everywhere.
        hashes: SHA-256, hexadecimal, of the files that pip may install.
    """

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the pin as pip reads it, each hash on a line of its own."""
        first = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        return " \\\n    ".join([first, *(f"--hash=sha256:{digest}" for digest in self.hashes)])


def sections(text: str) -> dict[str, tuple[Pin, ...]]:
    """Return the pins of each section.

    Raises:
        RequirementsError: when a line is no pin, hash, comment or section.
    """
    found: dict[str, list[tuple[re.Match[str], list[str]]]] = {}
    pins: list[tuple[re.Match[str], list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if section := _SECTION.fullmatch(line):
            pins = found.setdefault(section[1], [])
        elif pin := _PIN.fullmatch(line):
            pins.append((pin, []))
        elif (digest := _HASH.fullmatch(line)) and pins:
            pins[-1][1].append(digest[1])
        elif line and not line.startswith("#"):
            raise RequirementsError(f"requirements.txt, line {number}: {line!r} is neither NAME==VERSION nor a hash")
    return {name: tuple(_pin(match, digests) for match, digests in each) for name, each in found.items()}


def _pin(match: re.Match[str], digests: Iterable[str]) -> Pin:
    return Pin(match["name"], match["version"], (match["marker"] or "").removeprefix(" ; "), tuple(digests))


def read_sections() -> dict[str, tuple[Pin, ...]]:
    """Return the pins of each section of the project's own file."""
    return sections(REQUIREMENTS.read_text(encoding="utf-8"))


def all_pins() -> dict[str, Pin]:
    """Return every pin by its name."""
    return {pin.name: pin for pins in read_sections().values() for pin in pins}


def with_hashes(text: str, hashes: Mapping[str, tuple[str, ...]]) -> str:
    """Return the text of a requirements.txt with these hashes, by name, in place of those that it has."""
    lines = []
    for line in text.splitlines():
        if pin := _PIN.fullmatch(line):
            lines.append(str(_pin(pin, hashes[pin["name"]])))
        elif not _HASH.fullmatch(line):
            lines.append(line)
    return "\n".join(lines) + "\n"
